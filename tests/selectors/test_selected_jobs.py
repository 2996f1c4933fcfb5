"""Whole jobs in which not all trainers take part in each round."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from roles.errors import RoundFailed
from roles.selectors.choice import PowerOfChoice
from roles.selectors.oort import Oort
from roles.selectors.selector import EmptySelection, Selector
from roles.selectors.trace import Trace
from roles.selectors.uniform import Random
from roles.settings import Quorum, Settings
from tests.roles import oracle
from tests.roles.federation import PATIENCE, Job, Layout, Record, federate, three_tier, two_tier
from tests.roles.specimens import CLASSES, FEATURES, Points, classifier
from tests.selectors.reports import begun

QUORUM = Quorum(join_timeout=PATIENCE)
STEADY: dict[str, Any] = {"overcommitment": 1, "round_threshold": 100}
"""Of Oort: times, which differ from run to run, do not matter."""


class Nonsense(Points):
    """Points whose labels say nothing: their loss stays high."""

    def train_dataloader(self) -> DataLoader[Any]:
        generator = torch.Generator().manual_seed(self.seed)
        labels = torch.randint(0, CLASSES, (self.samples,), generator=generator)
        inputs = torch.randn(self.samples, FEATURES, generator=generator)
        return DataLoader(TensorDataset(inputs, labels), batch_size=self.batch_size, shuffle=True)


def run(
    layout: Layout,
    selector: Callable[[], Selector],
    settings: Settings,
    data: Sequence[Callable[[], Points]] | None = None,
    folder: Path | None = None,
    *,
    resume: bool = False,
) -> Mapping[str, Record]:
    data = data or [partial(Points, index, 10 + index) for index in range(len(layout.trainers))]
    places: dict[str, Any] = {} if folder is None else {"folder": folder / "models", "states": folder / "states"}
    test = lambda: Points(0, 1)  # noqa: E731
    job = Job(
        build_module=classifier(), data=data, build_test_data=test, settings=settings, selector=selector, resume=resume, **places
    )
    return federate(layout, job)


def succeed(records: Mapping[str, Record]) -> Mapping[str, Record]:
    assert {name: record.error for name, record in records.items()} == dict.fromkeys(records)
    return records


def last_model(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / "models" / "last.pt", weights_only=True)
    return state


def test_a_job_with_random_selection_equals_plain_pytorch_over_those_selected(tmp_path: Path) -> None:
    layout, settings = two_tier(6), Settings(seed=5, rounds=4, quorum=QUORUM)
    records = succeed(run(layout, lambda: Random(k=2), settings, folder=tmp_path))
    twin = begun(Random(k=2), seed=5)
    asked = {round: twin.select(round, layout.trainers).ends for round in range(1, 5)}
    assert {name: records[name].rounds for name in layout.trainers} == {
        name: [round for round, ends in asked.items() if name in ends] for name in layout.trainers
    }
    data = {name: Points(index, 10 + index) for index, name in enumerate(layout.trainers)}

    def takes_part(round: int, worker: str) -> bool:
        return worker in asked[round]

    expected = oracle.fedavg(classifier(), data, seed=5, rounds=4, epochs=1, takes_part=takes_part)
    assert oracle.largest_difference(last_model(tmp_path), expected[-1]) < 1e-6


def test_each_middle_aggregator_selects_among_its_own_trainers() -> None:
    layout = three_tier({"eu": 4, "na": 3})
    records = succeed(run(layout, lambda: Random(k=2), Settings(seed=1, rounds=3, quorum=QUORUM)))
    for names in (layout.trainers[:4], layout.trainers[4:]):
        for round in (1, 2, 3):
            assert sum(round in records[name].rounds for name in names) == 2


def test_oort_asks_clients_with_a_high_loss_more_often() -> None:
    layout = two_tier(20)
    data = [partial(Nonsense if index < 5 else Points, index, 20) for index in range(20)]
    selector = lambda: Oort(k=4, exploration_factor=0.5, **STEADY)  # noqa: E731
    records = succeed(run(layout, selector, Settings(seed=2, rounds=30, epochs=2, evaluate_every=0, quorum=QUORUM), data))
    counts = [len([round for round in records[name].rounds if round > 15]) for name in layout.trainers]
    assert sum(counts) == 15 * 4
    assert sum(counts[:5]) / 5 > 3 * sum(counts[5:]) / 15
    assert records["aggregator-0"].metrics_of("oort_explored")[30] == 20
    assert records["aggregator-0"].metrics_of("oort_exploration")[30] == pytest.approx(0.5 * 0.98**29)


def test_oort_closes_a_round_with_the_first_updates_it_needs() -> None:
    records = succeed(run(two_tier(6), lambda: Oort(k=3, overcommitment=2), Settings(rounds=3, evaluate_every=0, quorum=QUORUM)))
    assert records["aggregator-0"].metrics_of("updates") == {1: 3.0, 2: 3.0, 3: 3.0}


def test_power_of_choice_turns_to_clients_with_a_high_loss() -> None:
    layout = two_tier(8)
    data = [partial(Nonsense if index < 2 else Points, index, 20) for index in range(8)]
    selector = lambda: PowerOfChoice(m=2, d=6)  # noqa: E731
    records = succeed(run(layout, selector, Settings(seed=2, rounds=24, epochs=2, evaluate_every=0, quorum=QUORUM), data))
    counts = [len([round for round in records[name].rounds if round > 8]) for name in layout.trainers]
    assert min(counts[:2]) > max(counts[2:])


def test_by_a_trace_only_those_take_part_who_are_there() -> None:
    intervals = {"trainer-0": [[1, 1], [3, None]], "trainer-1": [2], "trainer-2": []}
    records = succeed(run(two_tier(3), lambda: Trace(intervals=intervals), Settings(rounds=4, quorum=QUORUM)))
    assert [records[f"trainer-{index}"].rounds for index in range(3)] == [[1, 3, 4], [2], []]


def test_a_round_for_which_nobody_is_there_ends_the_job_and_says_why() -> None:
    records = run(two_tier(2), lambda: Trace(intervals={}, unlisted=False, inner=Random(k=1)), Settings(rounds=2, quorum=QUORUM))
    error = records["aggregator-0"].error
    assert isinstance(error, EmptySelection)
    assert isinstance(error, RoundFailed)
    assert str(error) == "round 1: by the trace none of trainer-0, trainer-1 is available"


@pytest.mark.parametrize("name", ["random", "oort", "choice"])
def test_a_job_that_is_resumed_selects_as_if_nothing_had_happened(name: str, tmp_path: Path) -> None:
    selectors: dict[str, Callable[[], Selector]] = {
        "random": lambda: Random(k=2),
        "oort": lambda: Oort(k=2, pacer_step=2, **STEADY),
        "choice": lambda: PowerOfChoice(m=2, d=3),
    }
    layout, selector = two_tier(6), selectors[name]
    whole, first, second = (Settings(seed=6, rounds=rounds, quorum=QUORUM) for rounds in (6, 3, 6))
    unbroken = succeed(run(layout, selector, whole, folder=tmp_path / "whole"))
    succeed(run(layout, selector, first, folder=tmp_path / "broken"))
    rest = succeed(run(layout, selector, second, folder=tmp_path / "broken", resume=True))
    for trainer in layout.trainers:
        assert rest[trainer].rounds == [round for round in unbroken[trainer].rounds if round > 3]
    assert oracle.same_bits(last_model(tmp_path / "whole"), last_model(tmp_path / "broken"))
