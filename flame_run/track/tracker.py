"""The tracker's process: follows a run folder and delivers it, so that neither training nor the controller ever waits."""

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path

from flame_run.track.delivery import Delivery
from flame_run.track.errors import TrackError
from flame_run.track.inbox import Inbox, report
from flame_run.track.settings import LOG_FILE, TrackSettings
from flame_run.track.state import TrackState

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
"""Seconds between two tries, doubled from the first to the longest."""
TRIES_AT_END = 3
"""Tries at the end of the job for a store that never answered while it went on."""


def track(settings: TrackSettings, connection: Connection) -> None:
    """Deliver the run folder until the runner says `finish`, then report the `TrackResult`. Runs in a process of its own."""
    folder = Path(settings.run_dir)
    _become_tracker(folder / LOG_FILE)
    inbox = Inbox(connection)
    delivery = Delivery(TrackState.load(folder))
    follow(delivery, inbox)
    finish(delivery, inbox, connection)
    report(connection, result=asdict(delivery.result()))


def follow(delivery: Delivery, inbox: Inbox) -> None:
    """Deliver at every wake until the end of the job; after a failure pause, twice as long each time."""
    pause = FIRST_PAUSE
    while inbox.deadline is None:
        try:
            delivery.step()
        except TrackError as error:
            _log(f"{error}; next try in {pause:g} s")
            inbox.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        else:
            pause = FIRST_PAUSE
            delivery.prepare_models()
            inbox.wait()


def finish(delivery: Delivery, inbox: Inbox, connection: Connection) -> None:
    """Deliver all that is left within the time that the runner gave, and note as a warning what could not be delivered."""
    for name, action in delivery.last_steps():
        report(connection, at=name)
        failure = _try(delivery, action, inbox)
        if failure is None:
            continue
        delivery.warnings.append(f"tracking did not get {name} delivered: {failure}")
        if not failure.permanent:
            return


def _try(delivery: Delivery, action: Callable[[], None], inbox: Inbox) -> TrackError | None:
    """Try until it works, cannot work, or the time is over; return the last error of a failure."""
    deadline = inbox.deadline or 0.0
    never_answered = not delivery.connected
    pause, tries = FIRST_PAUSE, 0
    while True:
        tries += 1
        try:
            action()
        except TrackError as error:
            _log(str(error))
            hopeless = error.permanent or (never_answered and not delivery.connected and tries >= TRIES_AT_END)
            if hopeless or time.monotonic() + pause >= deadline:
                return error
        else:
            return None
        inbox.pause(pause)
        pause *= 2


def _become_tracker(log: Path) -> None:
    """Leave Ctrl-C to the runner, and keep what MLflow prints off its terminal."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.stdout.flush()
    sys.stderr.flush()
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _log(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - standard output is the tracker's log
