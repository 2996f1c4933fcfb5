"""Selection among those who are available by a trace."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import override

from roles.catalogue import TRAITS
from roles.part import About, Client, Gathered, Report
from roles.selectors.availability import Intervals, available, parse, read
from roles.selectors.selector import All, EmptySelection, Selection, Selector
from transports.message import Scalar


class Trace(Selector):
    """Asks only those who are available in the round by a trace; `inner` chooses among them.

    A job in which somebody is away, made repeatable: rounds, not seconds, so that the same ends are there in each run.
    Availability traces are how client dynamics are simulated in Lai et al. (OSDI 2021) and Shin et al. (MobiSys 2022). Needs of the
    topology what `inner` needs. Flame has none.

    Args:
        intervals: worker -> intervals [first, last] of rounds, both included, in which it is there; last null: to the end. None,
            the default: see `file`.
        file: the same as a JSON file, or a CSV file with the columns worker, first, last, read where rounds are led; None by
            default.
        unlisted: whether workers that the trace does not name are available; True by default.
        inner: chooses among those who are available; None, the default: all of them.

    Raises:
        ValueError: neither or both of `intervals` and `file`, or intervals that are none.
    """

    traits = TRAITS["roles.selectors.trace.Trace"]

    def __init__(
        self,
        *,
        intervals: Mapping[str, Any] | None = None,
        file: str | None = None,
        unlisted: bool = True,
        inner: Selector | None = None,
    ) -> None:
        if (intervals is None) == (file is None):
            raise ValueError("selector.intervals or selector.file must be given, and not both")
        self._file = file
        self._intervals: Intervals = {} if intervals is None else parse(intervals)
        self.unlisted = unlisted
        self.inner = All() if inner is None else inner

    @override
    def begin(self, about: About) -> None:
        super().begin(about)
        if self._file is not None:
            self._intervals = read(Path(self._file))
        self.inner.begin(about)

    @override
    def select(self, round: int, ends: Sequence[str]) -> Selection:
        there = [end for end in ends if available(self._intervals, end, round, unlisted=self.unlisted)]
        if not there:
            raise EmptySelection(f"round {round}: by the trace none of {', '.join(ends) or 'the ends'} is available")
        return self.inner.select(round, there)

    @override
    def told(self, round: int) -> Mapping[str, Scalar]:
        return self.inner.told(round)

    @override
    def heard(self, report: Report) -> None:
        self.inner.heard(report)

    @override
    def missed(self, end: str, round: int, reason: str) -> None:
        self.inner.missed(end, round, reason)

    @override
    def closed(self, gathered: Gathered, round: int) -> Gathered:
        return self.inner.closed(gathered, round)

    @override
    def metrics(self) -> Mapping[str, float]:
        return self.inner.metrics()

    @override
    def client(self) -> Client | None:
        return self.inner.client()

    @override
    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.inner.load_state_dict(state)
