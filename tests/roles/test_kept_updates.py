"""A strategy that needs all updates of a round at once gets them one by one; robust rules are such."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from typing_extensions import override

from roles import seeds
from roles.catalogue import Traits
from roles.rounds import intake
from roles.rounds.average import WEIGHTS
from roles.rounds.kept import KeptSum
from roles.settings import Settings
from roles.strategy import Gathered, State, Strategy
from roles.trainer import Task, Trainer
from tests.roles import oracle
from tests.roles.federation import Job, federate, two_tier
from tests.roles.specimens import Points, classifier
from transports.message import Message, TensorSpec

SIZES = (12, 9, 16, 7, 11)
SETTINGS = Settings(seed=4, rounds=3)
LIAR = "trainer-3"


class Median(Strategy):
    """The coordinate-wise median (Yin et al. 2018), as an author of a robust rule would write it."""

    traits = Traits(needs_all_updates=True)

    @override
    def step(self, current: State, gathered: Gathered, round: int) -> State:
        assert len(gathered.singles) == gathered.count
        return {
            name: torch.from_numpy(np.median([single.groups[WEIGHTS][name].numpy() for single in gathered.singles], axis=0)).to(
                current[name].dtype
            )
            for name in gathered.mean
        }


class Liar(Trainer):
    """Hands up nonsense, finite and large."""

    @override
    def train(self, task: Task) -> Message:
        update = super().train(task)
        groups = {WEIGHTS: {name: torch.full_like(value, 1e6) for name, value in update.groups[WEIGHTS].items()}}
        return Message(kind=update.kind, round=update.round, scalars=update.scalars, groups=groups)


def expected() -> dict[str, Tensor]:
    """The same in a plain loop."""
    seeds.apply(seeds.derive(SETTINGS.seed, "model"))
    module = classifier()()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    for round in range(1, SETTINGS.rounds + 1):
        found = []
        for index, size in enumerate(SIZES):
            name = f"trainer-{index}"
            if name == LIAR:
                found.append({entry: torch.full_like(value, 1e6) for entry, value in state.items()})
                continue
            module.load_state_dict(state)
            oracle.train_locally(module, Points(index, size), seed=SETTINGS.seed, worker=name, round=round, epochs=1)
            found.append({entry: value.clone() for entry, value in module.state_dict().items()})
        state = {
            entry: torch.from_numpy(np.median([each[entry].numpy() for each in found], axis=0)).to(value.dtype)
            for entry, value in state.items()
        }
    return state


@pytest.mark.parametrize("limit", [intake.WHOLE_BYTES, 0], ids=["small", "large"])
def test_a_median_of_all_updates_is_what_a_plain_loop_makes(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "WHOLE_BYTES", limit)
    data = [lambda index=index, size=size: Points(index, size) for index, size in enumerate(SIZES)]
    job = Job(build_module=classifier(), data=data, settings=SETTINGS, strategy=Median, code_of={LIAR: Liar}, folder=tmp_path)
    records = federate(two_tier(len(SIZES)), job)
    assert {name: record.error for name, record in records.items() if record.error} == {}
    found = torch.load(tmp_path / "last.pt", weights_only=True)
    assert oracle.largest_difference(found, expected()) < 1e-6


class Raised:
    """An entry that came in another form."""

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def write(self, out: Tensor) -> None:
        out.copy_(self.value)

    def add(self, total: Tensor, factor: float) -> None:
        total.add_(self.value, alpha=factor)


def scalars(weight: float, samples: int = 2) -> Mapping[str, float]:
    return {"weight": weight, "samples": samples, "loss": 0.5}


def test_what_is_kept_is_a_copy_in_the_dtypes_of_the_sum() -> None:
    specs = {"a": TensorSpec(torch.float16, (2,)), "n": TensorSpec(torch.int64, ())}
    total = KeptSum(specs, names=["loss"])
    first = {"a": torch.tensor([1.0, 2.0], dtype=torch.float16), "n": torch.tensor(3)}
    total.add({WEIGHTS: first}, scalars(2.0))
    first["a"].zero_()
    total.add({WEIGHTS: {"a": Raised(torch.tensor([5.0, 7.0])), "n": torch.tensor(1)}}, scalars(4.0, 9), factor=0.5)
    one, two = total.singles
    assert one.groups[WEIGHTS]["a"].dtype == torch.float32
    assert [one.groups[WEIGHTS]["a"].tolist(), two.groups[WEIGHTS]["a"].tolist()] == [[1.0, 2.0], [5.0, 7.0]]
    assert [int(single.groups[WEIGHTS]["n"]) for single in total.singles] == [3, 1]
    assert [(single.weight, single.samples, single.scalars["loss"]) for single in total.singles] == [(2.0, 2, 0.5), (2.0, 9, 0.5)]
    mean = {name: value.clone() for name, value in total.mean().items()}
    assert mean["a"].tolist() == [3.0, 4.5]
    assert [one.groups[WEIGHTS]["a"].tolist(), two.groups[WEIGHTS]["a"].tolist()] == [[1.0, 2.0], [5.0, 7.0]]


def test_a_reference_is_added_to_each_and_a_sum_made_anew_keeps_nothing() -> None:
    total = KeptSum({"a": TensorSpec(torch.float32, (2,))})
    for value in (1.0, 3.0):
        total.add({WEIGHTS: {"a": torch.full((2,), value)}}, scalars(1.0))
    total.shift("a", torch.tensor([10.0, 20.0]))
    assert [single.groups[WEIGHTS]["a"].tolist() for single in total.singles] == [[11.0, 21.0], [13.0, 23.0]]
    total.clear()
    assert total.singles == []
