"""Small jobs whose trainers differ in data and work, with a smooth module: last bits stay last bits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from roles.catalogue import Traits
from roles.selectors.selector import All, Selection, Selector
from roles.settings import Quorum, Settings
from roles.strategy import Strategy
from tests.algorithms.reference import Plan, everybody
from tests.roles.federation import PATIENCE, Job, Layout, Record, federate, two_tier
from tests.roles.specimens import CLASSES, FEATURES, Classifier, Points, classifier

SIZES = (12, 22, 7)
"""Samples; in batches of 5 they are 3, 5 and 2 steps."""
DATA = {f"trainer-{index}": Points(index, size) for index, size in enumerate(SIZES)}
SETTINGS = Settings(seed=4, rounds=4, quorum=Quorum(join_timeout=PATIENCE))


def smooth() -> nn.Sequential:
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, CLASSES))


class Normed(nn.Module):
    """With batch statistics, and an integer that counts batches of training.

    In double precision: the statistics of a last batch of two samples blow up what rounding leaves.
    """

    batches: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, CLASSES))
        self.register_buffer("batches", torch.zeros(2, dtype=torch.int32))
        self.double()

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.batches += 1
        outputs: Tensor = self.body(inputs)
        return outputs


def build(net: Callable[[], nn.Module] = smooth, **options: Any) -> Callable[[], Classifier]:
    """A factory of classifiers; `options` are attributes such as lr, momentum, gamma."""

    def factory() -> Classifier:
        module = classifier(net)()
        for name, value in options.items():
            assert hasattr(module, name)
            setattr(module, name, value)
        return module

    return factory


class Rotating(Selector):
    """Leaves out another end in each round."""

    traits = Traits(selects=True)

    @override
    def select(self, round: int, ends: Sequence[str]) -> Selection:
        return Selection(ends=tuple(end for index, end in enumerate(ends) if index != round % len(ends)))


def rotating(round: int, worker: str) -> bool:
    """Whether `Rotating` takes a trainer of `DATA`."""
    return list(DATA).index(worker) != round % len(DATA)


def plan_of(factory: Callable[[], Classifier], *, partial: bool = False, **more: Any) -> Plan:
    """What the reference trains."""
    return Plan(build=factory, data=DATA, takes_part=rotating if partial else everybody, **more)


def job_of(
    factory: Callable[[], Classifier],
    strategy: Callable[[], Strategy],
    folder: Path,
    *,
    data: Mapping[str, Points] = DATA,
    partial: bool = False,
    settings: Settings = SETTINGS,
    **more: Any,
) -> Job:
    """The same as a job."""
    own = [lambda each=each: each for each in data.values()]
    selector: Callable[[], Selector] = Rotating if partial else All
    options = {"settings": settings, "folder": folder, "selector": selector, **more}
    return Job(build_module=factory, data=own, strategy=strategy, **options)


def train(
    factory: Callable[[], Classifier], strategy: Callable[[], Strategy], folder: Path, *, layout: Layout | None = None, **more: Any
) -> dict[str, Tensor]:
    """The global model after a job in which nobody fails."""
    records = run(factory, strategy, folder, layout=layout, **more)
    assert {name: record.error for name, record in records.items()} == dict.fromkeys(records)
    return model_in(folder)


def run(
    factory: Callable[[], Classifier], strategy: Callable[[], Strategy], folder: Path, *, layout: Layout | None = None, **more: Any
) -> dict[str, Record]:
    """What the workers of a job report."""
    layout = layout or two_tier(len(more.get("data", DATA)))
    return federate(layout, job_of(factory, strategy, folder, **more))


def model_in(folder: Path) -> dict[str, Tensor]:
    """The global model at the end."""
    state: dict[str, Tensor] = torch.load(folder / "last.pt", weights_only=True)
    return state


def uniform(settings: Settings = SETTINGS) -> Settings:
    """Every end counts the same."""
    return replace(settings, share=replace(settings.share, weighted_by="uniform"))
