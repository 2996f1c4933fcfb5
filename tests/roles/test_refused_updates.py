from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from roles.errors import RoleError, RoundFailed, UnexpectedMessage
from roles.settings import Quorum, Settings
from roles.trainer import Task, Trainer
from tests.roles import oracle
from tests.roles.federation import PATIENCE, Job, Record, federate, three_tier, two_tier
from tests.roles.specimens import Points, classifier
from transports.base import Channel
from transports.errors import PeerLost
from transports.message import Message

SETTINGS = Settings(seed=6, rounds=2, quorum=Quorum(join_timeout=PATIENCE))
DATA = {f"trainer-{index}": Points(index, size) for index, size in enumerate((12, 9, 16))}

Spoil = Callable[[Message], Message]


def spoiled(spoil: Spoil, *, round: int = 1) -> type[Trainer]:
    """A trainer whose update of `round` is not what it should be."""

    class Spoiled(Trainer):
        def train(self, task: Task) -> Message:
            update = super().train(task)
            return spoil(update) if task.round == round else update

    return Spoiled


def with_value(value: float) -> Spoil:
    def spoil(update: Message) -> Message:
        update.groups["weights"]["net.2.bias"][1] = value
        return update

    return spoil


def with_scalar(name: str, value: Any) -> Spoil:
    return lambda update: update.relabel(scalars={**update.scalars, name: value})


def with_tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Spoil:
    def spoil(update: Message) -> Message:
        tensors = dict(update.groups["weights"])
        change(tensors)
        return Message(update.kind, update.round, scalars=update.scalars, groups={"weights": tensors})

    return spoil


BAD: dict[str, tuple[Spoil, str]] = {
    "nan": (with_value(float("nan")), "entry 'net.2.bias' has values that are not finite"),
    "infinite": (with_value(float("inf")), "entry 'net.2.bias' has values that are not finite"),
    "shape": (with_tensors(lambda t: t.update({"net.2.bias": torch.zeros(4)})), "'net.2.bias' is float32[4], expected float32[3]"),
    "dtype": (with_tensors(lambda t: t.update({"net.2.bias": torch.zeros(3).double()})), "'net.2.bias' is float64[3]"),
    "missing": (with_tensors(lambda t: t.pop("net.2.bias")), "missing ['net.2.bias']"),
    "extra": (with_tensors(lambda t: t.update(extra=torch.zeros(1))), "unknown ['extra']"),
    "stale": (lambda update: update.relabel(round=0), "update of round 0 in round 1"),
    "early": (lambda update: update.relabel(round=2), "update of round 2 in round 1"),
    "kind": (lambda update: update.relabel(kind="gossip"), "kind 'gossip' where an update is expected"),
    "samples": (with_scalar("samples", 0), "0 samples"),
    "weight": (with_scalar("weight", -1.0), "weight -1.0"),
}


def run(
    spoiled_trainer: type[Trainer], min_ends: int | None, folder: Path | None = None, *, layout: Any = None
) -> dict[str, Record]:
    settings = replace(SETTINGS, quorum=Quorum(min_ends=min_ends, join_timeout=PATIENCE))
    data = [lambda own=own: own for own in DATA.values()]
    job = Job(build_module=classifier(), data=data, settings=settings, folder=folder, code_of={"trainer-1": spoiled_trainer})
    return federate(layout or two_tier(3), job)


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_update_fails_a_round_that_needs_all_and_its_sender_is_told(fault: str) -> None:
    spoil, reason = BAD[fault]
    records = run(spoiled(spoil), None)
    root, sender, other = (records[name].error for name in ("aggregator-0", "trainer-1", "trainer-0"))
    assert isinstance(root, RoundFailed)
    assert "round 1: 2 of 3 ends can deliver, 3 are needed (trainer-1: " in str(root)
    assert reason in str(root)
    assert isinstance(sender, RoleError | PeerLost)
    assert reason in str(sender)
    assert isinstance(other, PeerLost)
    assert "aggregator-0" in str(other)


@pytest.mark.parametrize("fault", BAD)
def test_with_a_quorum_the_round_goes_on_as_if_the_bad_update_never_came(fault: str, tmp_path: Path) -> None:
    spoil, reason = BAD[fault]
    records = run(spoiled(spoil), 2, tmp_path)
    sender = records["trainer-1"].error
    assert type(sender) is RoleError
    assert str(sender).startswith("aggregator-0 refused the update of round 1: ")
    assert reason in str(sender)
    assert [records[name].error for name in ("aggregator-0", "trainer-0", "trainer-2")] == [None] * 3
    assert records["aggregator-0"].metrics_of("updates") == {1: 2.0, 2: 2.0}
    others = {name: data for name, data in DATA.items() if name != "trainer-1"}
    expected = oracle.fedavg(classifier(), others, seed=6, rounds=2, epochs=1)[-1]
    assert oracle.largest_difference(torch.load(tmp_path / "last.pt", weights_only=True), expected) < 1e-6


def test_a_bad_update_below_a_middle_aggregator_is_named_at_the_root() -> None:
    records = run(spoiled(BAD["nan"][0]), None, layout=three_tier({"eu": 2, "na": 1}))
    assert isinstance(records["middle-0"].error, RoundFailed)
    root = records["top-0"].error
    assert isinstance(root, RoundFailed)
    assert all(part in str(root) for part in ("middle-0", "trainer-1", "not finite"))


def test_a_trainer_that_fails_later_counts_until_then(tmp_path: Path) -> None:
    records = run(spoiled(BAD["nan"][0], round=2), 2, tmp_path)
    assert records["aggregator-0"].metrics_of("updates") == {1: 3.0, 2: 2.0}
    assert "round 2" in str(records["trainer-1"].error)


def test_a_second_update_in_a_round_is_refused() -> None:
    class Eager(Trainer):
        outcomes: list[str] = []  # noqa: RUF012

        def upload(self, channel: Channel, task: Task, update: Message) -> None:
            second = channel.send(update, [task.parent])
            first = channel.send(update, [task.parent])
            outcomes = [delivery.wait(PATIENCE)[task.parent] for delivery in (second, first)]
            self.outcomes.extend(f"{outcome.state} {outcome.reason}".strip() for outcome in outcomes)

    records = run(Eager, None)
    assert {name: record.error for name, record in records.items()} == dict.fromkeys(records)
    # Refused in its own round or, if that has closed, in the next one; counted in neither.
    assert [outcome.split()[0] for outcome in Eager.outcomes] == ["accepted", "refused"] * 2
    assert records["aggregator-0"].metrics_of("updates") == {1: 3.0, 2: 3.0}


def test_an_aggregator_that_sends_what_a_trainer_does_not_expect_is_named() -> None:
    from roles.aggregator import Aggregator
    from roles.aggregator import Task as Round

    class Confused(Aggregator):
        def distribute(self, channel: Channel, task: Round) -> None:
            channel.send(task.model.relabel(kind="gossip"), task.ends)

    job = Job(build_module=classifier(), data=[lambda: Points(0, 8)], settings=SETTINGS, code_of={"aggregator-0": Confused})
    error = federate(two_tier(1), job)["trainer-0"].error
    assert isinstance(error, UnexpectedMessage)
    assert "aggregator-0 sent 'gossip'" in str(error)
