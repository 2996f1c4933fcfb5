"""What the runner does to single workers: kills, restarts, gives up."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from flame_run.control import events as control
from flame_run.control.controller import Controller
from flame_run.launch.sentinels import Sentinels
from flame_run.launch.sizing import RestartingLauncher
from flame_run.run import events as ev


class Hands:
    """Carries out what the supervisor decides on single workers.

    Args:
        launcher: starts workers; one that tells nothing of their processes is helped out by watching those of this machine.
        controller: seats them.
        here: names of the workers that the launcher starts, in its order.
        post: takes what the processes do.
        restarting: whether lost workers are started again.
    """

    def __init__(
        self,
        launcher: Any,
        controller: Controller,
        here: Sequence[str],
        post: Callable[[ev.ProcessEvent], None],
        *,
        restarting: bool,
    ) -> None:
        self._launcher = launcher
        self._controller = controller
        self._index = {name: index for index, name in enumerate(here)}
        self._post = post
        self._sentinels = None if hasattr(launcher, "observer") else Sentinels(self._ended)
        self._held = restarting and isinstance(launcher, RestartingLauncher)
        if self._held:
            launcher.hold()

    def note(self, event: ev.Event) -> None:
        """Learn from an event where the workers run."""
        if self._sentinels is not None and isinstance(event, control.Registered) and event.worker in self._index:
            self._sentinels.watch(event.worker, event.pid, event.host)

    def do(self, action: ev.Action) -> None:
        """Carry out an action on a single worker."""
        match action:
            case ev.KillWorker(worker):
                self._kill(worker)
            case ev.VacateSeat(worker, reason):
                self._controller.vacate(worker, reason)
            case ev.RestartWorker(worker):
                self._launcher.restart(self._index[worker])
            case ev.GiveUpWorker(worker, reason):
                self._controller.give_up(worker, reason)

    def let_go(self) -> None:
        """The job is over: no worker will be started any more."""
        if self._held:
            self._launcher.release()
        if self._sentinels is not None:
            self._sentinels.close()

    def _kill(self, worker: str) -> None:
        if worker in self._index and isinstance(self._launcher, RestartingLauncher):
            self._launcher.kill_one(self._index[worker])
        elif self._sentinels is None or not self._sentinels.kill(worker):
            # Of another machine, or a thread: it can only be asked.
            self._controller.stop_worker(worker, f"{worker} was given up")

    def _ended(self, worker: str, pid: int) -> None:
        self._post(ev.ProcessEvent(worker=worker, pid=pid, what="gone", time=time.time()))
