from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from roles.errors import RoundFailed, UnexpectedMessage
from roles.settings import Quorum, Settings
from roles.state import model_sha256
from roles.trainer import Task, Trainer
from tests.roles import oracle
from tests.roles.federation import PATIENCE, Job, Layout, Record, federate, three_tier, two_tier
from tests.roles.specimens import Points, classifier
from transports.base import Channel
from transports.errors import PeerLost
from transports.faulty import Fault, FaultyHub, Place, Script
from transports.inproc import Hub
from transports.message import Message

pytestmark = pytest.mark.usefixtures("folding")
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
    spoiled_trainer: type[Trainer],
    min_ends: int | None,
    folder: Path | None = None,
    *,
    layout: Layout | None = None,
    settings: Settings | None = None,
    hub: Hub | None = None,
) -> dict[str, Record]:
    settings = settings or replace(SETTINGS, quorum=Quorum(min_ends=min_ends, join_timeout=PATIENCE))
    data = [lambda own=own: own for own in DATA.values()]
    job = Job(build_module=classifier(), data=data, settings=settings, folder=folder, code_of={"trainer-1": spoiled_trainer})
    return federate(layout or two_tier(3), job, hub=hub)


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_update_fails_a_round_that_needs_all(fault: str) -> None:
    spoil, reason = BAD[fault]
    records = run(spoiled(spoil), None)
    root, other = (records[name].error for name in ("aggregator-0", "trainer-0"))
    assert isinstance(root, RoundFailed)
    assert not root.lost
    assert "round 1: 2 of 3 ends can deliver, 3 are needed (trainer-1: " in str(root)
    assert reason in str(root)
    assert isinstance(other, PeerLost)
    assert "aggregator-0" in str(other)


@pytest.mark.parametrize("fault", BAD)
def test_with_a_quorum_the_round_goes_on_as_if_the_bad_update_never_came(
    fault: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spoil, reason = BAD[fault]
    records = run(spoiled(spoil), 2, tmp_path)
    assert {name: record.error for name, record in records.items()} == dict.fromkeys(records)
    root, sender = records["aggregator-0"], records["trainer-1"]
    assert root.metrics_of("updates") == {1: 2.0, 2: 3.0}
    assert root.metrics_of("rejected_updates") == root.metrics_of("missing_ends") == {1: 1.0}
    assert sender.metrics_of("refused_updates") == {1: 1.0}
    assert "trainer-1: aggregator-0 refused the update of round " in caplog.text
    assert reason in caplog.text

    def good(round: int, worker: str) -> bool:
        return (round, worker) != (1, "trainer-1")

    expected = oracle.fedavg(classifier(), DATA, seed=6, rounds=2, epochs=1, takes_part=good)[-1]
    assert oracle.largest_difference(torch.load(tmp_path / "last.pt", weights_only=True), expected) < 1e-6


def test_a_bad_update_below_a_middle_aggregator_is_named_at_the_root() -> None:
    records = run(spoiled(BAD["nan"][0]), None, layout=three_tier({"eu": 2, "na": 1}))
    root = records["top-0"].error
    assert isinstance(root, RoundFailed)
    assert not root.lost
    assert all(part in str(root) for part in ("middle-0", "trainer-1", "not finite"))


def test_a_trainer_whose_update_is_refused_takes_part_in_the_next_round(tmp_path: Path) -> None:
    records = run(spoiled(BAD["nan"][0], round=1), 2, tmp_path)
    assert records["aggregator-0"].metrics_of("updates") == {1: 2.0, 2: 3.0}
    assert records["trainer-1"].rounds == [1, 2]


def test_an_end_whose_updates_are_refused_too_often_is_excluded_and_stays_until_the_end(caplog: pytest.LogCaptureFixture) -> None:
    class Spoiling(Trainer):
        def train(self, task: Task) -> Message:
            return with_value(float("nan"))(super().train(task))

    settings = replace(SETTINGS, rounds=5, quorum=Quorum(min_ends=2, join_timeout=PATIENCE, max_bad_updates=2))
    records = run(Spoiling, None, settings=settings)
    assert {name: record.error for name, record in records.items()} == dict.fromkeys(records)
    assert records["trainer-1"].rounds == [1, 2]
    assert records["trainer-0"].rounds == [1, 2, 3, 4, 5]
    assert records["aggregator-0"].metrics_of("rejected_updates") == {1: 1.0, 2: 1.0}
    assert records["aggregator-0"].metrics_of("missing_ends") == dict.fromkeys(range(1, 6), 1.0)
    assert "excluded: 2 of its updates in a row were refused, the last: entry 'net.2.bias'" in caplog.text


def test_a_good_update_between_bad_ones_starts_the_count_anew() -> None:
    class Moody(Trainer):
        def train(self, task: Task) -> Message:
            update = super().train(task)
            return with_value(float("nan"))(update) if task.round in (1, 3, 5) else update

    settings = replace(SETTINGS, rounds=5, quorum=Quorum(min_ends=2, join_timeout=PATIENCE, max_bad_updates=2))
    records = run(Moody, None, settings=settings)
    assert records["trainer-1"].rounds == [1, 2, 3, 4, 5]
    assert records["aggregator-0"].metrics_of("updates") == {1: 2.0, 2: 3.0, 3: 2.0, 4: 3.0, 5: 2.0}


def test_with_survivors_an_excluded_end_is_not_needed_but_a_refused_one_is() -> None:
    quorum = Quorum(survivors=True, join_timeout=PATIENCE)
    failed = run(spoiled(BAD["nan"][0]), None, settings=replace(SETTINGS, quorum=quorum))
    assert isinstance(failed["aggregator-0"].error, RoundFailed)
    excluding = replace(SETTINGS, quorum=replace(quorum, max_bad_updates=1))
    records = run(spoiled(BAD["nan"][0]), None, settings=excluding)
    assert {name: record.error for name, record in records.items()} == dict.fromkeys(records)
    assert records["aggregator-0"].metrics_of("updates") == {1: 2.0, 2: 2.0}
    assert records["trainer-1"].rounds == [1]


def test_a_corrupt_update_is_refused_and_its_sender_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    hub = FaultyHub(Script({Place("param", "trainer-1", "aggregator-0", 1): Fault("corrupt")}))
    records = run(Trainer, 2, hub=hub)
    assert {name: record.error for name, record in records.items()} == dict.fromkeys(records)
    assert records["aggregator-0"].metrics_of("rejected_updates") == {1: 1.0}
    assert records["aggregator-0"].metrics_of("updates") == {1: 2.0, 2: 3.0}
    assert "corrupt" in caplog.text


def test_a_model_that_arrives_corrupt_is_sent_again(tmp_path: Path) -> None:
    places = [Place("param", "aggregator-0", "trainer-1", number) for number in (1, 2, 4)]
    run(Trainer, None, tmp_path / "calm")
    records = run(Trainer, None, tmp_path / "rough", hub=FaultyHub(Script(dict.fromkeys(places, Fault("corrupt")))))
    assert {name: record.error for name, record in records.items()} == dict.fromkeys(records)
    assert records["trainer-1"].rounds == [1, 2]
    calm, rough = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("calm", "rough"))
    assert model_sha256(calm) == model_sha256(rough)


def test_an_end_that_can_never_read_the_model_is_missing() -> None:
    faults = {Place("param", "aggregator-0", "trainer-1", number): Fault("corrupt") for number in range(1, 50)}
    error = run(Trainer, None, hub=FaultyHub(Script(faults)))["aggregator-0"].error
    assert isinstance(error, RoundFailed)
    assert not error.lost
    assert "trainer-1: could not read the model: " in str(error)


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
    from roles.rounds.task import Task as Round

    class Confused(Aggregator):
        def distribute(self, channel: Channel, task: Round) -> None:
            channel.send(task.model.relabel(kind="gossip"), task.ends)

    job = Job(build_module=classifier(), data=[lambda: Points(0, 8)], settings=SETTINGS, code_of={"aggregator-0": Confused})
    error = federate(two_tier(1), job)["trainer-0"].error
    assert isinstance(error, UnexpectedMessage)
    assert "aggregator-0 sent 'gossip'" in str(error)
