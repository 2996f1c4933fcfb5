"""What the tests of privacy put together by hand: models, updates, sums of updates."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from roles.part import About, Client, Gathered, Local, Update
from roles.privacy.clipped import CLIP, COUNT_NOISE, NOISE, WITHIN
from roles.privacy.dp import DifferentialPrivacy
from transports.message import Message, Scalar

START = {"a": torch.zeros(3, 2), "b": torch.zeros(4)}


def about(population: int, start: Mapping[str, Tensor] = START, **changes: Any) -> About:
    parameters = frozenset(name for name in start if "running" not in name and "num" not in name)
    return About(**{"start": start, "parameters": parameters, "population": population, "seed": 7, **changes})


def local(worker: str = "trainer-0") -> Local:
    return cast("Local", type("Local", (), {"worker": worker, "seed": 7})())


def model(weights: Mapping[str, Tensor], *, clip: float = 1.0, noise: float = 0.0, count_noise: float = 0.0) -> Message:
    scalars: dict[str, Scalar] = {CLIP: clip, NOISE: noise, COUNT_NOISE: count_noise}
    return Message(kind="weights", round=1, scalars=scalars, groups={"weights": dict(weights)})


def finished(
    client: Client,
    received: Message,
    weights: Mapping[str, Tensor],
    further: Mapping[str, Mapping[str, Tensor]] | None = None,
    *,
    worker: str = "trainer-0",
) -> Update:
    """What becomes of an update of 17 samples; `further`: its other groups."""
    groups = {group: dict(values) for group, values in (further or {}).items()}
    update = Update(round=received.round, weights=dict(weights), groups=groups, weight=17.0, samples=17)
    client.receive(local(worker), received)
    client.finish(local(worker), update)
    return update


def gathered(updates: Sequence[Update]) -> Gathered:
    """The fold of an aggregator, entry by entry."""
    weight = math.fsum(update.weight for update in updates)
    sums = {WITHIN: math.fsum(float(update.scalars[WITHIN]) for update in updates)}
    further = {group: _folded([update.groups[group] for update in updates], updates) for group in updates[0].groups}
    groups = {"weights": _folded([update.weights for update in updates], updates), **further}
    return Gathered(groups=groups, sums=sums, weight=weight, samples=sum(u.samples for u in updates), count=len(updates))


def _folded(states: Sequence[Mapping[str, Tensor]], updates: Sequence[Update]) -> dict[str, Tensor]:
    weight = math.fsum(update.weight for update in updates)
    pairs = list(zip(states, updates, strict=True))
    mean = {
        name: sum((state[name] * update.weight for state, update in pairs), torch.zeros(())) / weight
        for name, value in states[0].items()
        if value.is_floating_point()
    }
    return {**mean, **{name: value for name, value in states[0].items() if name not in mean}}


def begun(population: int, start: Mapping[str, Tensor] = START, **keys: Any) -> DifferentialPrivacy:
    part = DifferentialPrivacy(**keys)
    part.begin(about(population, start))
    return part


def client_of(part: DifferentialPrivacy) -> Client:
    client = part.client()
    assert client is not None
    return client


def flat(state: Mapping[str, Tensor]) -> Any:
    """All numbers of a state, as float64."""
    return np.concatenate([value.double().numpy().reshape(-1) for value in state.values()])
