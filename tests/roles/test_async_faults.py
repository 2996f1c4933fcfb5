"""Asynchronous jobs whose workers die, come late, or whose connections break."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from roles.aggregator import Aggregator
from roles.algorithms.fedbuff import FedBuff
from roles.errors import RoundFailed
from roles.part import Gathered, Report, State
from roles.role import Role
from roles.settings import Quorum, Settings, Stop
from roles.simulated import Simulated
from roles.trainer import Task, Trainer
from tests.roles.fatal import dying
from tests.roles.federation import PATIENCE, Job, Killed, Layout, Record, federate, three_tier, two_tier
from tests.roles.lasting import ENDLESS, back, died, federate_until
from tests.roles.specimens import Points, classifier
from transports.base import Channel
from transports.errors import PeerLost
from transports.faulty import BREAKS, Chance, FaultyHub
from transports.message import Message

ROUNDS = 8
ALL = Quorum(join_timeout=PATIENCE, rejoin_timeout=PATIENCE)
SURVIVORS = replace(ALL, survivors=True)
LAYOUTS: Mapping[str, Callable[[], Layout]] = {
    "two_tier": lambda: two_tier(4),
    "three_tier": lambda: three_tier({"eu": 2, "na": 2}),
}


def job(quorum: Quorum = ALL, *, rounds: int = ROUNDS, k: int = 2, middle_k: int = 1, **more: Any) -> Job:
    settings = Settings(seed=6, rounds=rounds, optimizer="keep", quorum=quorum, **more.pop("settings", {}))
    data = [lambda index=index: Points(index, 8 + index) for index in range(4)]
    strategy = lambda: FedBuff(k=k, middle_k=middle_k)  # noqa: E731 - a factory
    return replace(Job(build_module=classifier(momentum=0.9), data=data, settings=settings, strategy=strategy), **more)


def errors(records: Mapping[str, Record]) -> dict[str, BaseException]:
    return {name: record.error for name, record in records.items() if record.error is not None}


def root(records: Mapping[str, Record]) -> Record:
    return next(record for record in records.values() if record.results)


@pytest.mark.parametrize("stage", ["prepare", "fetch", "train", "upload"])
def test_without_a_lost_trainer_the_others_fill_the_buffer(stage: str) -> None:
    fatal = dying(Trainer, stage, call=1 if stage == "prepare" else 2)
    records = federate_until(two_tier(4), job(SURVIVORS, code_of={"trainer-1": fatal}), died("trainer-1"))
    assert errors(records).keys() == {"trainer-1"}
    rounds = root(records).results[0]["rounds"]
    assert records["aggregator-0"].metrics_of("updates") == dict.fromkeys(range(1, rounds + 1), 2.0)
    assert records["aggregator-0"].metrics_of("missing_ends")[rounds] == 1.0


def test_where_all_are_needed_a_lost_trainer_fails_the_round_by_name() -> None:
    records = federate(two_tier(4), job(code_of={"trainer-1": dying(Trainer, "train", call=2)}, rounds=ENDLESS))
    error = records["aggregator-0"].error
    assert isinstance(error, RoundFailed)
    assert error.lost
    assert "3 of 4 ends can deliver, 4 are needed (trainer-1: trainer-1 failed: killed in train)" in str(error)


def test_when_too_few_are_left_for_a_buffer_it_closes_with_those(caplog: pytest.LogCaptureFixture) -> None:
    code = dict.fromkeys(("trainer-1", "trainer-2"), dying(Trainer, "train", call=2))
    records = federate_until(two_tier(4), job(SURVIVORS, k=3, code_of=code), died(*code))
    assert errors(records).keys() == code.keys()
    assert records["aggregator-0"].metrics_of("updates")[root(records).results[0]["rounds"]] == 2.0
    assert "trainer-1: trainer-1 failed: killed in train" in caplog.text


POINTS: list[tuple[str, str, type[Role], str]] = [
    *[("two_tier", "trainer-1", Trainer, stage) for stage in ("prepare", "join", "fetch", "train", "upload")],
    *[("two_tier", "aggregator-0", Aggregator, stage) for stage in ("join", "distribute", "aggregate")],
    *[("three_tier", "trainer-3", Trainer, stage) for stage in ("fetch", "train", "upload")],
    *[("three_tier", "middle-0", Aggregator, stage) for stage in ("join", "fetch", "distribute", "aggregate", "upload")],
    *[("three_tier", "top-0", Aggregator, stage) for stage in ("distribute", "aggregate")],
]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("point", POINTS, ids=[f"{point[1]}-{point[3]}" for point in POINTS])
def test_a_worker_that_is_started_anew_takes_part_again(
    point: tuple[str, str, type[Role], str], after: bool, tmp_path: Path
) -> None:
    layout, worker, base, stage = point
    fatal = dying(base, stage, call=1 if stage in ("prepare", "join") else 2, after=after)
    whole = job(folder=tmp_path / "models", states=tmp_path / "states", code_of={worker: fatal})
    records = federate_until(LAYOUTS[layout](), whole, back(worker), restart=True)
    assert not errors(records)
    assert len(records[worker].deaths) == 1
    assert root(records).results[0]["rounds"] == root(records).rounds[-1]
    assert len(records[worker].rounds) > records[worker].done


def test_a_lost_middle_aggregator_takes_its_trainers_with_it_and_the_rest_goes_on() -> None:
    code = {"middle-0": dying(Aggregator, "upload", call=2)}
    records = federate_until(three_tier({"eu": 2, "na": 2}), job(SURVIVORS, k=1, code_of=code), died("middle-0"))
    found = errors(records)
    assert found.keys() == {"middle-0", "trainer-0", "trainer-1"}
    assert isinstance(found["middle-0"], Killed)
    assert isinstance(found["trainer-0"], PeerLost)
    assert records["top-0"].metrics_of("updates") == dict.fromkeys(range(1, records["top-0"].results[0]["rounds"] + 1), 1.0)


def test_a_middle_aggregator_without_trainers_sits_out_and_the_others_go_on() -> None:
    code = dict.fromkeys(("trainer-0", "trainer-1"), dying(Trainer, "train", call=2))
    records = federate_until(three_tier({"eu": 2, "na": 2}), job(SURVIVORS, k=1, code_of=code), died(*code))
    assert errors(records).keys() == code.keys()
    assert records["top-0"].metrics_of("updates") == dict.fromkeys(range(1, records["top-0"].results[0]["rounds"] + 1), 1.0)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("clock", [None, Simulated(jitter=0.5)], ids=["real", "virtual"])
def test_connections_that_break_and_come_back_hold_nobody_up(name: str, seed: int, clock: Simulated | None) -> None:
    hub = FaultyHub(Chance(seed, rate=0.25, kinds=(*BREAKS, "delay", "duplicate", "corrupt_offer"), most=12))
    records = federate(LAYOUTS[name](), job(settings={"simulated": clock}), hub=hub)
    assert not errors(records)
    assert hub.happened
    assert root(records).results[0]["rounds"] == ROUNDS


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", LAYOUTS)
def test_corrupt_updates_are_left_out_and_their_senders_asked_again(name: str, seed: int) -> None:
    hub = FaultyHub(Chance(seed, rate=0.1, kinds=(*BREAKS, "corrupt", "corrupt_offer"), most=12))
    records = federate(LAYOUTS[name](), job(), hub=hub)
    assert not errors(records)
    assert root(records).results[0]["rounds"] == ROUNDS


@pytest.mark.parametrize("name", LAYOUTS)
def test_everybody_may_die_once_while_connections_break(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]()
    stages = {Trainer: "train", Aggregator: "aggregate"}
    code = {worker.name: dying(base, stages[base], call=2) for worker in layout.workers for base in [layout.code[worker.role]]}
    hub = FaultyHub(Chance(7, rate=0.1, kinds=BREAKS, most=12))
    whole = job(folder=tmp_path / "models", states=tmp_path / "states", code_of=code)
    records = federate(layout, whole, hub=hub, restart=True)
    assert not errors(records)
    assert root(records).results[0]["rounds"] == ROUNDS


class Late:
    """Trainer 0 works on its first model until another one is in `round`, which waits there until trainer 0 was heard."""

    def __init__(self, round: int) -> None:
        self.round = round
        self.others_are_there = threading.Event()
        self.was_heard = threading.Event()
        self.heard: list[tuple[int, str, int]] = []

    def trainer(self) -> type[Trainer]:
        late = self

        class Late(Trainer):
            def train(self, task: Task) -> Message:
                if self.context.name == "trainer-0" and task.round == 1:
                    self._await(late.others_are_there)
                elif self.context.name != "trainer-0" and task.round >= late.round and not late.others_are_there.is_set():
                    late.others_are_there.set()
                    self._await(late.was_heard)
                return super().train(task)

            def upload(self, channel: Channel, task: Task, update: Message) -> None:
                super().upload(channel, task, update)
                if self.context.name == "trainer-0":
                    late.was_heard.set()

            def _await(self, event: threading.Event) -> None:
                with self.context.endpoint.mailbox.gate.released():  # type: ignore[attr-defined]
                    assert event.wait(PATIENCE)

        return Late

    def strategy(self, k: int) -> type[FedBuff]:
        late = self

        class Noting(FedBuff):
            def __init__(self) -> None:
                super().__init__(k=k)
                self.new: list[Report] = []

            def heard(self, report: Report) -> None:
                self.new.append(report)

            def step(self, current: State, gathered: Gathered, round: int) -> State:
                late.heard += [(round, report.end, report.round) for report in self.new]
                self.new.clear()
                return super().step(current, gathered, round)

        return Noting


def test_an_update_that_comes_late_counts_by_its_age_in_the_round_in_which_it_comes() -> None:
    late = Late(4)
    records = federate(two_tier(3, trainer=late.trainer()), job(strategy=late.strategy(2), rounds=12))
    assert not errors(records)
    ((counted, _, made), *_) = [each for each in late.heard if each[1] == "trainer-0"]
    assert made == 1
    assert counted == 4, "of the two others, one waits: without trainer 0 the buffer is not filled"
    assert all(made == counted for counted, end, made in late.heard if counted < 4), "the others are fresh"


def test_a_trainer_that_still_trains_when_the_job_ends_hears_of_it_when_it_is_done(caplog: pytest.LogCaptureFixture) -> None:
    late = Late(3)

    class Ending(Aggregator):
        def farewell(self, *arguments: Any) -> None:
            late.others_are_there.set()
            super().farewell(*arguments)

    late.round = 1000
    records = federate(
        two_tier(3, trainer=late.trainer()), job(strategy=late.strategy(2), rounds=3, code_of={"aggregator-0": Ending})
    )
    assert not errors(records)
    assert "trainer-0" not in {end for _, end, _ in late.heard}
    assert records["trainer-0"].rounds == [1]
    assert "without waiting longer" not in caplog.text


def test_the_end_of_a_job_waits_for_a_busy_trainer_only_for_so_long(caplog: pytest.LogCaptureFixture) -> None:
    late = Late(1000)
    quorum = replace(ALL, join_timeout=0.2)

    class Leaving(Aggregator):
        def join(self) -> None:
            # Only the end is to be short of time.
            self.channel("distribute").wait_joined(timeout=PATIENCE)
            super().join()

        def run(self) -> None:
            super().run()
            late.others_are_there.set()

    records = federate(
        two_tier(3, trainer=late.trainer()), job(quorum, strategy=late.strategy(2), rounds=3, code_of={"aggregator-0": Leaving})
    )
    assert records["aggregator-0"].error is None
    assert "the job ends without waiting longer" in caplog.text
    assert "trainer-0" in caplog.text


def test_the_end_reaches_those_below_a_middle_aggregator_whose_buffer_is_not_full() -> None:
    late = Late(1000)

    class Ending(Aggregator):
        def farewell(self, *arguments: Any) -> None:
            if self.context.name == "top-0":
                late.others_are_there.set()
            super().farewell(*arguments)

    layout = three_tier({"eu": 1, "na": 2}, trainer=late.trainer())
    code = {"top-0": Ending}
    data = job().data[:3]
    records = federate(layout, job(k=1, rounds=3, code_of=code, data=data))
    assert not errors(records)
    assert records["middle-0"].rounds == [1]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_target_ends_the_job_early(name: str) -> None:
    stop = Stop(metric="loss", mode="min", target=100.0)
    whole = job(settings={"stop": stop}, build_test_data=lambda: Points(0, 1))
    records = federate(LAYOUTS[name](), whole)
    assert not errors(records)
    assert root(records).results[0]["rounds"] == 1


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_job_that_died_goes_on_from_its_last_checkpoint_and_asks_everybody_again(name: str, tmp_path: Path) -> None:
    more: dict[str, Any] = {"folder": tmp_path / "models", "states": tmp_path / "states", "settings": {"simulated": Simulated()}}
    broken = federate(LAYOUTS[name](), job(code_of={"trainer-0": dying(Trainer, "train", call=4)}, **dict(more)))
    assert isinstance(broken["trainer-0"].error, Killed)
    records = federate(LAYOUTS[name](), job(resume=True, **dict(more)))
    assert not errors(records)
    found = root(records)
    assert found.results[0]["rounds"] == ROUNDS
    assert found.rounds[0] > 1
    assert list(found.metrics_of("virtual_seconds").values()) == sorted(found.metrics_of("virtual_seconds").values())
    assert found.metrics_of("virtual_seconds")[found.rounds[0]] > 1.0, "the clock goes on"
    assert all(torch.isfinite(value).all() for value in torch.load(tmp_path / "models" / "last.pt", weights_only=True).values())
