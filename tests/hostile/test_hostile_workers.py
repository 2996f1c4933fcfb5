"""Workers that were let in and say what no worker would: the run's records, summary and terminal stay in order."""

import logging
from math import nan
from pathlib import Path
from typing import Any

import pytest

from flame_run.control import control_pb2 as pb
from flame_run.control import wire
from flame_run.control.controller import Controller
from flame_run.control.errors import SessionRefused
from flame_run.control.events import MetricsReported, StateChanged
from flame_run.control.grpc_session import GrpcSession
from flame_run.control.results import why_no_result
from flame_run.run.events import Warn
from flame_run.run.faults import FaultsConf
from flame_run.run.refusals import METRIC, Refusals
from flame_run.run.summary import build_summary
from flame_run.run.supervisor import Supervisor
from flame_run.words import Bounded, readable
from tests.fuzz.job import TOKEN, small_plan

ESCAPE = "\x1b]0;owned\x07\x1b[2J"


class Hall:
    """A controller, what it posted, and a supervisor that hears it."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.controller = Controller(small_plan(), part=lambda name: {"worker": name}, post=self.events.append, token=TOKEN)
        self.supervisor = Supervisor(small_plan(), faults=FaultsConf())
        self.supervisor.begin(0.0, 1.0)

    def seat(self, worker: str) -> Any:
        return self.controller.register(worker, TOKEN, pid=1, host="here", deliver=lambda _: None)

    def heard(self) -> list[Any]:
        """Let the supervisor hear everything; returns what it wants done."""
        events, self.events = self.events, []
        return [action for event in events for action in self.supervisor.handle(event, 1.0)]


def test_a_result_of_a_worker_that_is_no_root_is_no_result_of_the_job() -> None:
    hall = Hall()
    root, trainer = hall.seat("aggregator-0"), hall.seat("trainer-0")
    root.result({"model_sha256": "right", "metrics": {"loss": 0.5}})
    for _ in range(5):
        trainer.result({"model_sha256": "wrong", "metrics": {"loss": 0.0}})
    warnings = [action.text for action in hall.heard() if isinstance(action, Warn)]
    assert warnings == ["trainer-0 reported a result, though it is no root"]
    summary = build_summary(hall.supervisor.outcome(2.0), Path("models"))
    assert (summary["model_sha256"], summary["metrics"], list(summary["roots"])) == ("right", {"loss": 0.5}, ["aggregator-0"])


@pytest.mark.parametrize(
    "bad",
    [
        {"metrics": 5}, {"metrics": {"loss": "low"}}, {"metrics": {"loss": 10**400}}, {"metrics": {ESCAPE: 1.0}}, {"best": []},
        {"best": {"round": "x"}}, {"best": {"metrics": [1]}}, {"rounds": "3"}, {"rounds": -1}, {"rounds": True}, {"rounds": 2**80},
        {"round_seconds": {"1": 2}}, {"round_seconds": [nan]}, {"round_seconds": ["1"]}, {"samples": "many"}, {"samples": nan},
        {"training_seconds": None}, {"model": 7}, {"model": "x" * 10_000}, {"model_sha256": ["a"]}, {"stopped": ESCAPE},
    ],
    ids=str,
)  # fmt: skip
def test_a_result_that_no_summary_can_be_made_of_is_refused(bad: dict[str, Any]) -> None:
    hall = Hall()
    assert why_no_result(bad) is not None
    with pytest.raises(SessionRefused, match=f"a result whose {next(iter(bad))} is not"):
        hall.seat("aggregator-0").result(bad)
    assert hall.controller.refusals == {"malformed": 1}
    assert [type(each).__name__ for each in hall.events] == ["Registered"]


def test_results_as_roots_report_them_are_taken() -> None:
    for good in ({}, {"metrics": {"loss": nan, "n": 3}, "best": {}, "rounds": 0, "stopped": None, "model": None, "samples": 0}):
        assert why_no_result(good) is None


def test_what_workers_say_cannot_steer_a_terminal(caplog: pytest.LogCaptureFixture) -> None:
    hall = Hall()
    seat = hall.seat("trainer-0")
    with pytest.raises(SessionRefused, match="cannot be printed"):
        seat.metrics(1, {ESCAPE: 1.0}, 1.0)
    seat.state("failed", error=f"first line{ESCAPE}\n\tsecond line")
    (event,) = [each for each in hall.events if isinstance(each, StateChanged)]
    assert event.error == "first line?]0;owned??[2J\n\tsecond line"
    with caplog.at_level(logging.WARNING), pytest.raises(SessionRefused):
        hall.controller.register("trainer-1" + ESCAPE, TOKEN, pid=1, host=ESCAPE * 10_000, deliver=lambda _: None)
    assert not set("\x1b\x07") & set(caplog.text)
    assert len(caplog.text) < 10_000


def test_a_flood_of_refusals_is_counted_whole_and_logged_in_part(caplog: pytest.LogCaptureFixture) -> None:
    hall = Hall()
    with caplog.at_level(logging.WARNING):
        for _ in range(1000):
            with pytest.raises(SessionRefused):
                hall.controller.authenticate("guess", "somebody")
    assert hall.controller.refusals == {"token": 1000}
    assert len(caplog.records) == 100 + 3
    assert caplog.records[-1].getMessage().endswith("; the 512th that was refused")


def test_refusals_come_together_for_a_person() -> None:
    refusals = Refusals()
    values = [("aggregator-0", 3.0), ("aggregator-0", 2.0), ("trainer-0", nan), ("trainer-1", -4.0)]
    for worker, value in values:
        refusals.note(MetricsReported(worker=worker, round=None, values={METRIC: value}, time=1.0))
    refusals.note(MetricsReported(worker="trainer-0", round=1, values={"loss": 0.5}, time=1.0))
    refusals.note(object())
    controller = {"token": 4, "name": 1}
    assert refusals.content(controller) == {"refused": {"controller": {"name": 1, "token": 4}, "workers": {"aggregator-0": 5}}}
    text = refusals.text(controller)
    assert text is not None
    assert text.startswith("refused connections or messages: the controller 5 times (name 1, token 4), aggregator-0 5 times; ")
    assert Refusals().text({}) is None


def test_lines_are_told_apart_by_their_number() -> None:
    lines = Bounded(2)
    assert [lines.next() for _ in range(8)] == ["", "", None, "; the 4th that was refused", None, None, None,
                                                "; the 8th that was refused"]  # fmt: skip
    assert readable("a\x00b\u202ec\nd" + "e" * 9000, 8) == "a?b?c\nde"


@pytest.mark.parametrize(
    "order",
    [
        b"\xff\xff no order",
        b"",
        wire.part({}, 0.0),
        wire.part({}, -1.0),
        wire.part({}, nan),
        wire.part({}, float("inf")),
        pb.Order(part=pb.Part(json=b"[]", heartbeat=1.0)).SerializeToString(),
        pb.Order(part=pb.Part(json=b"{", heartbeat=1.0)).SerializeToString(),
        pb.Order(part=pb.Part(json=b"[" * 100_000, heartbeat=1.0)).SerializeToString(),
        pb.Order(received=pb.Received(number=2**63)).SerializeToString(),
    ],
)
def test_whoever_passes_for_the_controller_and_says_nonsense_ends_the_session_and_no_thread(order: bytes) -> None:
    session = GrpcSession("127.0.0.1:1", "token", "trainer-0")
    with pytest.raises(ValueError, match=r"."):
        session._take(order)
