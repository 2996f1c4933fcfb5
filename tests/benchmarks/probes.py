"""Aggregators that look at themselves."""

import gc
from typing import Any

from typing_extensions import override

from roles import Aggregator
from tests.benchmarks.pages import KINDS, forget_peak, resident


class MemoryAggregator(Aggregator):
    """Reports how much more memory it held at its peak than before it built its model, as metric `peak_megabytes`.

    As it enters each round it also reports what it holds by kind of page, less what it held before.
    """

    @override
    def run(self) -> None:
        gc.collect()
        forget_peak()
        before, reporter = resident(), self.context.reporter
        kind = type(reporter)
        entered = kind.entered

        def enter(self: Any, round: int) -> None:
            now = resident()
            self.metrics(round, {name: now[key] - before[key] for key, name in KINDS.items()})
            entered(self, round)

        kind.entered = enter  # type: ignore[method-assign]
        super().run()
        reporter.metrics(self.context.settings.rounds, {"peak_megabytes": resident()["VmHWM"] - before["VmRSS"]})
