import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch

from roles.catalogue import Traits
from roles.samplers.sampler import All
from roles.selectors.selector import Selection, Selector
from roles.settings import Quorum, Settings
from roles.simulated import Simulated, Span
from roles.trainer import Task, Trainer
from tests.roles import oracle
from tests.roles.federation import PATIENCE, Job, Layout, Record, federate, three_tier, two_tier
from tests.roles.specimens import Points, classifier
from transports.message import Message

SIZES = (12, 9, 16, 7)
DATA = {f"trainer-{index}": Points(index, size) for index, size in enumerate(SIZES)}
QUORUM = Quorum(join_timeout=PATIENCE, rejoin_timeout=PATIENCE)
FACTORS = {"trainer-0": 1.0, "trainer-1": 3.0, "trainer-2": 2.0, "trainer-3": 8.0, "middle-0": 1.0, "middle-1": 1.0}
CLOCK = Simulated(compute=1.0, network=0.25, workers=FACTORS)


def run(
    layout: Layout, folder: Path | None = None, *, clock: Simulated = CLOCK, quorum: Quorum = QUORUM, rounds: int = 3, **more: Any
) -> Mapping[str, Record]:
    settings = Settings(seed=2, rounds=rounds, quorum=quorum, simulated=clock)
    data = [lambda own=own: own for own in DATA.values()]
    records = federate(layout, Job(build_module=classifier(), data=data, settings=settings, folder=folder, **more))
    assert {name: record.error for name, record in records.items()} == dict.fromkeys(records)
    return records


def seconds(records: Mapping[str, Record]) -> list[float]:
    root = next(record for record in records.values() if record.results)
    return list(root.metrics_of("virtual_seconds").values())


def as_expected(folder: Path, there: set[str], rounds: int = 3) -> None:
    expected = oracle.fedavg(classifier(), DATA, seed=2, rounds=rounds, epochs=1, takes_part=lambda _, worker: worker in there)[-1]
    assert oracle.largest_difference(torch.load(folder / "last.pt", weights_only=True), expected) < 1e-6


def test_a_worker_takes_as_long_as_its_factor_says() -> None:
    assert CLOCK.span("trainer-1", 1) == Span(3.0, 0.75)
    assert CLOCK.task("trainer-1", 1) == 4.5
    assert CLOCK.task("trainer-1", 1, effort=0.5) == 3.0
    assert CLOCK.transfer("trainer-1", 1) == 0.75
    assert CLOCK.factor("nobody-knows") == 1.0


def test_factors_are_drawn_from_a_log_normal_distribution_once_for_each_worker() -> None:
    clock = Simulated(spread=0.7, seed=3)
    logs = [math.log(clock.factor(f"trainer-{index}")) for index in range(2000)]
    assert abs(median(logs)) < 0.05
    assert math.sqrt(sum(each**2 for each in logs) / len(logs)) == pytest.approx(0.7, rel=0.05)
    assert clock.factor("trainer-5") == clock.factor("trainer-5") == Simulated(spread=0.7, seed=3).factor("trainer-5")
    assert clock.factor("trainer-5") != Simulated(spread=0.7, seed=4).factor("trainer-5")
    assert clock.span("trainer-5", 1) == clock.span("trainer-5", 2)


def test_jitter_is_drawn_anew_in_each_round() -> None:
    clock = Simulated(jitter=0.5, seed=3)
    assert len({clock.span("trainer-5", round).compute for round in range(1, 20)}) == 19


def test_a_trace_says_what_was_measured_and_its_last_round_stands_for_those_that_follow() -> None:
    clock = Simulated(compute=100.0, trace={"trainer-0": {2: Span(2.0, 0.5), 4: Span(4.0, 0.0)}})
    assert [clock.task("trainer-0", round) for round in (1, 2, 3, 4, 9)] == [3.0, 3.0, 3.0, 4.0, 4.0]
    assert clock.task("trainer-1", 1) == 100.0


def test_a_synchronous_round_takes_as_long_as_its_slowest_worker(tmp_path: Path) -> None:
    records = run(two_tier(4), tmp_path)
    assert seconds(records) == [12.0, 24.0, 36.0]
    as_expected(tmp_path, set(DATA))


def test_through_a_middle_aggregator_its_transfers_are_added() -> None:
    assert seconds(run(three_tier({"eu": 2, "na": 2}))) == [12.5, 25.0, 37.5]


def test_a_deadline_is_one_of_the_virtual_clock(tmp_path: Path) -> None:
    quorum = replace(QUORUM, min_ends=2, deadline=1.75)
    records = run(two_tier(4), tmp_path, quorum=quorum)
    # 1.5 and 3 are the quorum, 4.5 comes in time, 12 does not: the round waits for it until its deadline.
    assert seconds(records) == [4.75, 9.5, 14.25]
    assert records["aggregator-0"].metrics_of("updates") == dict.fromkeys((1, 2, 3), 3.0)
    as_expected(tmp_path, {"trainer-0", "trainer-1", "trainer-2"})


class FirstTwo(Selector):
    """Asks all and takes the first two."""

    traits = Traits(selects=True)

    def select(self, round: int, ends: Any) -> Selection:
        return Selection(ends=tuple(ends), needed=2)


def test_the_first_by_the_virtual_clock_are_those_that_count(tmp_path: Path) -> None:
    records = run(two_tier(4), tmp_path, selector=FirstTwo)
    assert seconds(records) == [3.0, 6.0, 9.0]
    as_expected(tmp_path, {"trainer-0", "trainer-2"})


class Limited(All):
    """Gives each round five seconds."""

    def deadline(self, round: int) -> float:
        return 5.0


def test_the_limit_of_a_sampler_is_one_of_the_virtual_clock(tmp_path: Path) -> None:
    records = run(two_tier(4), tmp_path, sampler=Limited)
    assert seconds(records) == [5.0, 10.0, 15.0]
    as_expected(tmp_path, {"trainer-0", "trainer-1", "trainer-2"})


@pytest.mark.parametrize("time", ["soon", float("nan"), float("inf"), None])
def test_an_update_without_a_time_is_refused(time: Any) -> None:
    class Timeless(Trainer):
        def train(self, task: Task) -> Message:
            return super().train(task)

        def _timed(self, task: Task, update: Message) -> Message:
            timed = super()._timed(task, update)
            if self.context.name != "trainer-1":
                return timed
            scalars = {**timed.scalars, "virtual_time": time}
            return timed.relabel(scalars={name: value for name, value in scalars.items() if value is not None})

    settings = Settings(seed=2, rounds=1, quorum=replace(QUORUM, min_ends=3), simulated=CLOCK)
    data = [lambda own=own: own for own in DATA.values()]
    records = federate(two_tier(4, trainer=Timeless), Job(build_module=classifier(), data=data, settings=settings))
    assert records["aggregator-0"].error is None
    assert records["aggregator-0"].metrics_of("rejected_updates") == {1: 1.0}
    assert records["aggregator-0"].metrics_of("updates") == {1: 3.0}
