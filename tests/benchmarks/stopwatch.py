"""Roles that note where the time of a round goes, by wrapping the functions that do the work.

Times are exclusive: what a wrapped function spends in another wrapped one counts there. Counted are whole rounds, from the
moment that the second one is entered to the moment that the last one is.
The first look at memory of another process maps its pages: over shm that counts where an update is checked.
"""

import functools
import importlib
import os
import re
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import psutil
from typing_extensions import override

from roles import Aggregator, NullTrainer
from roles.role import Role

PREFIX = "profile/"
TRANSPORT = (
    ("pack", "transports.core:CoreChannel._pack"),
    ("pack", "transports.grpc_channel.channel:GrpcChannel._pack"),
    ("allocate", "transports.grpc_channel.channel:GrpcChannel.allocate"),
    ("send (offer)", "transports.core:CoreChannel.send"),
    ("fetch or map", "transports.core:CoreOffer.fetch"),
    ("fetch or map", "transports.core:CoreOffer.prefetch"),
    ("answer", "transports.core:CoreOffer.accept"),
    ("wait for events", "transports.core:CoreChannel.receive"),
    ("wait for events", "transports.core:CoreEndpoint.receive"),
    ("wait for answers", "transports.core:CoreDelivery.wait"),
)
AGGREGATOR = (
    *TRANSPORT,
    ("check the header", "roles.rounds.check:check_header"),
    ("check the values", "roles.rounds.check:check_values"),
    ("add", "roles.rounds.average:WeightedSum.add"),
    ("make the sum", "roles.rounds.average:WeightedSum.__init__"),
    ("mean", "roles.rounds.average:WeightedSum.mean"),
    ("server step", "roles.algorithms.fedavg:FedAvg.step"),
    ("copy into the next model", "roles.root:Root.close"),
    ("start the review", "roles.root:Root.review"),
    ("beside: review", "roles.root:Root._review"),
)
TRAINER = (*TRANSPORT, ("copy the update", "roles.null:NullTrainer.train"))


class Stopwatch:
    """Exclusive seconds by label, per thread on a stack of its own."""

    def __init__(self) -> None:
        self._own = threading.local()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._began = 0.0
        self._cpu: dict[str, float] = {}
        self._rounds = 0
        self.found: dict[str, float] = {}
        """Milliseconds per round by label, once the last round was entered."""

    def wrap(self, targets: Sequence[tuple[str, str]]) -> None:
        """Wrap each `MODULE:NAME` or `MODULE:CLASS.NAME`; what this version does not have is left out."""
        for label, target in targets:
            path, _, qualified = target.partition(":")
            holder: Any = importlib.import_module(path)
            *classes, name = qualified.split(".")
            for each in classes:
                holder = getattr(holder, each, None)
            original = vars(holder).get(name) if holder is not None else None
            if original is None:
                print(f"stopwatch: no {target}", file=sys.stderr)
                continue
            timed = self._timed(label, original)
            setattr(holder, name, timed)
            # A function that others have imported by name stands in their modules too.
            for module in [each for key, each in sys.modules.items() if key.startswith("roles.") and not classes]:
                if vars(module).get(name) is original:
                    setattr(module, name, timed)

    def _timed(self, label: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            outer, self._own.inner = getattr(self._own, "inner", 0.0), 0.0
            began = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                elapsed = time.perf_counter() - began
                self._seconds[label] += elapsed - self._own.inner
                self._own.inner = outer + elapsed

        return timed

    def enter(self, round: int, rounds: int) -> None:
        """Round `round` of `rounds` begins."""
        if round == 2:
            self._seconds.clear()
            self._began, self._cpu = time.perf_counter(), _cpu_by_thread()
        elif round == rounds:
            count = round - 2
            whole, inside = time.perf_counter() - self._began, dict(self._seconds)
            counted = sum(seconds for label, seconds in inside.items() if not label.startswith("beside"))
            inside |= {"the rest": whole - counted, "round": whole}
            inside |= {f"cpu: {name}": now - self._cpu.get(name, 0.0) for name, now in _cpu_by_thread().items()}
            self.found = {label: 1e3 * seconds / count for label, seconds in inside.items()}


def _cpu_by_thread() -> dict[str, float]:
    """Processor seconds of each Python thread by name, and of all others together (gRPC's own, torch's)."""
    # The ids that Python keeps are those of before the fork; the main thread's is that of the process.
    names = {thread.native_id: re.sub(r"^flame-run .*", "transport loop", thread.name) for thread in threading.enumerate()}
    names[os.getpid()] = "main thread"
    seconds: defaultdict[str, float] = defaultdict(float)
    for thread in psutil.Process().threads():
        seconds[names.get(thread.id, "native threads")] += thread.user_time + thread.system_time
    return dict(seconds)


def _run_timed(role: Role, run: Callable[[], None], targets: Sequence[tuple[str, str]]) -> None:
    watch, settings, reporter = Stopwatch(), role.context.settings, role.context.reporter
    watch.wrap(targets)
    kind = type(reporter)
    entered = kind.entered

    def enter(self: Any, round: int) -> None:
        watch.enter(round, settings.rounds)
        entered(self, round)

    kind.entered = enter  # type: ignore[method-assign]
    run()
    reporter.metrics(settings.rounds, {f"{PREFIX}{label}": value for label, value in watch.found.items()})


class TimedAggregator(Aggregator):
    """Reports milliseconds per round, by label, as metrics `profile/LABEL`."""

    @override
    def run(self) -> None:
        _run_timed(self, super().run, AGGREGATOR)


class TimedTrainer(NullTrainer):
    """The same for a trainer."""

    @override
    def run(self) -> None:
        _run_timed(self, super().run, TRAINER)
