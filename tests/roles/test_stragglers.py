import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from roles.settings import Quorum, Settings
from roles.trainer import Task, Trainer
from tests.roles import oracle
from tests.roles.federation import PATIENCE, Job, federate, two_tier
from tests.roles.specimens import Points, classifier
from transports.faulty import BREAKS, Fault, FaultyHub, Place, Script
from transports.message import Message

SIZES = (12, 9, 16)
DATA = {f"trainer-{index}": Points(index, size) for index, size in enumerate(SIZES)}
FACTORIES = [partial(Points, index, size) for index, size in enumerate(SIZES)]
QUORUM = Quorum(min_ends=2, deadline=0.01, join_timeout=PATIENCE, rejoin_timeout=PATIENCE)
JOB = Job(
    build_module=classifier(),
    data=FACTORIES,
    settings=Settings(seed=2, rounds=4, quorum=QUORUM),
)


class Meeting:
    """Trainer 2 works on its first model until the others are in round 3, which waits for it to begin anew."""

    def __init__(self, hub: FaultyHub) -> None:
        self.hub = hub
        self.others_are_in_round_3 = threading.Event()
        self.straggler_is_back = threading.Event()
        self.sent = 0
        """Messages to the straggler before it was done with its first model."""

    def trainer(self) -> type[Trainer]:
        meeting = self

        class Meeting(Trainer):
            def train(self, task: Task) -> Message:
                straggles = self.context.name == "trainer-2"
                if straggles and task.round > 1:
                    meeting.straggler_is_back.set()
                elif straggles:
                    self._await(meeting.others_are_in_round_3)
                elif task.round == 3:
                    if not meeting.others_are_in_round_3.is_set():
                        meeting.sent = meeting.hub._numbers["param", "aggregator-0", "trainer-2"]
                    meeting.others_are_in_round_3.set()
                    self._await(meeting.straggler_is_back)
                return super().train(task)

            def _await(self, event: threading.Event) -> None:
                with self.context.endpoint.mailbox.gate.released():  # type: ignore[attr-defined]
                    assert event.wait(PATIENCE)

        return Meeting


def test_a_straggler_is_told_that_its_round_is_over_and_goes_on_with_the_round_that_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub = FaultyHub()
    meeting = Meeting(hub)
    records = federate(two_tier(3, trainer=meeting.trainer()), replace(JOB, folder=tmp_path), hub=hub)
    assert {name: record.error for name, record in records.items()} == dict.fromkeys(records)
    assert records["trainer-2"].rounds[:2] == [1, 3]
    assert records["trainer-2"].metrics_of("refused_updates")[1] == 1.0
    assert "aggregator-0 refused the update of round 1: round 1 is over" in caplog.text
    assert "round 1 goes without trainer-2: no update within 0.01 s of the quorum" in caplog.text
    # Models do not pile up behind a straggler: none was sent for round 2, nor, until it was done, for round 3.
    assert meeting.sent == 1
    updates = records["aggregator-0"].metrics_of("updates")
    assert [updates[1], updates[2]] == [2.0, 2.0]


def test_a_round_without_a_deadline_waits_for_a_straggler_beyond_the_quorum(tmp_path: Path) -> None:
    class Slow(Trainer):
        def train(self, task: Task) -> Message:
            if self.context.name == "trainer-2":
                with self.context.endpoint.mailbox.gate.released():  # type: ignore[attr-defined]
                    pass
            return super().train(task)

    settings = replace(JOB.settings, quorum=replace(QUORUM, deadline=None))
    records = federate(two_tier(3, trainer=Slow), replace(JOB, folder=tmp_path, settings=settings))
    assert records["aggregator-0"].metrics_of("updates") == dict.fromkeys(range(1, 5), 3.0)
    expected = oracle.fedavg(classifier(), DATA, seed=2, rounds=4, epochs=1)[-1]
    assert oracle.largest_difference(torch.load(tmp_path / "last.pt", weights_only=True), expected) < 1e-6


@pytest.mark.parametrize("kind", BREAKS)
def test_the_end_reaches_a_trainer_whose_connection_breaks_at_that_moment(kind: str) -> None:
    settings = replace(JOB.settings, quorum=replace(QUORUM, deadline=None, min_ends=None))
    last = settings.rounds + 1
    hub = FaultyHub(Script({Place("param", "aggregator-0", "trainer-1", last): Fault(kind)}))  # type: ignore[arg-type]
    records = federate(two_tier(3), replace(JOB, settings=settings), hub=hub)
    assert {name: record.error for name, record in records.items()} == dict.fromkeys(records)
    assert all(records[name].rounds == [1, 2, 3, 4] for name in DATA)


@pytest.mark.parametrize("kind", ["break_before_fetch", "break_after_fetch", "break_before_accept"])
def test_an_update_that_is_lost_with_its_connection_is_sent_again_without_training_anew(kind: str) -> None:
    settings = replace(JOB.settings, quorum=replace(QUORUM, deadline=None, min_ends=None))
    hub = FaultyHub(Script({Place("param", "trainer-1", "aggregator-0", 2): Fault(kind)}))  # type: ignore[arg-type]
    records = federate(two_tier(3), replace(JOB, settings=settings), hub=hub)
    assert {name: record.error for name, record in records.items()} == dict.fromkeys(records)
    assert records["aggregator-0"].metrics_of("updates") == dict.fromkeys(range(1, 5), 3.0)
    assert records["trainer-1"].rounds == [1, 2, 3, 4]
