from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from roles.errors import RoundFailed
from roles.ring.exchange import Exchange
from roles.ring.serverless import Serverless
from roles.role import Role
from roles.trainer import Trainer
from tests.ring.layouts import ALL, SURVIVORS, data_of, errors, federation, hybrid, ring
from tests.roles import oracle
from tests.roles.fatal import dying
from tests.roles.federation import Federation, Killed, Record
from tests.roles.specimens import classifier
from transports.errors import PeerLost


def model(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / "last.pt", weights_only=True)
    return state


def expected(workers: int, last: Mapping[str, int], rounds: int = 3) -> dict[str, torch.Tensor]:
    """The model of those who took part; `last`: the last round of those that were lost."""

    def there(round: int, worker: str) -> bool:
        return round <= last.get(worker, round)

    return oracle.fedavg(classifier(), data_of(workers), seed=4, rounds=rounds, epochs=1, takes_part=there)[-1]


def dying_inside(monkeypatch: pytest.MonkeyPatch, worker: str, piece: int) -> None:
    """Let a worker die, once, when it has taken its n-th piece."""
    original: Callable[..., Any] = Exchange._take
    taken = [0]

    def fatal(self: Exchange, *arguments: Any) -> Any:
        result = original(self, *arguments)
        if self._circle.me == worker:
            taken[0] += 1
            if taken[0] == piece:
                raise Killed("killed in the middle of the ring")
        return result

    monkeypatch.setattr(Exchange, "_take", fatal)


def survived(records: Mapping[str, Record], *lost: str) -> None:
    found = errors(records)
    assert {name for name, error in found.items() if isinstance(error, Killed)} == set(lost)
    assert {name: error for name, error in found.items() if name not in lost} == {name: None for name in found if name not in lost}


STAGES = ["load", "train", "ring_allreduce"]


@pytest.mark.parametrize("worker", ["trainer-0", "trainer-1", "trainer-3"])
@pytest.mark.parametrize("stage", STAGES)
def test_with_continue_the_others_go_on_without_a_lost_member(stage: str, worker: str, tmp_path: Path) -> None:
    code: dict[str, type[Role]] = {worker: dying(Trainer, stage, call=2)}
    records = federation(ring(4), tmp_path, quorum=SURVIVORS, code_of=code).run()
    survived(records, worker)
    assert oracle.largest_difference(model(tmp_path), expected(4, {worker: 1})) < 1e-6


@pytest.mark.parametrize("worker", ["trainer-0", "trainer-2"])
@pytest.mark.parametrize("piece", [1, 4, 6])
def test_a_member_that_dies_inside_the_ring_leaves_the_others_with_what_they_trained(
    piece: int, worker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying_inside(monkeypatch, worker, 6 + piece)
    records = federation(ring(4), tmp_path, quorum=SURVIVORS).run()
    survived(records, worker)
    found = model(tmp_path)
    last = [oracle.largest_difference(found, expected(4, {worker: round})) for round in (1, 2)]
    assert min(last) < 1e-6


@pytest.mark.parametrize("worker", ["trainer-0", "trainer-1", "trainer-3"])
@pytest.mark.parametrize("stage", [*STAGES, "prepare", "join"])
def test_a_member_that_is_started_anew_changes_no_bit_of_the_model(stage: str, worker: str, tmp_path: Path) -> None:
    federation(ring(4), tmp_path / "calm").run()
    code: dict[str, type[Role]] = {worker: dying(Trainer, stage, call=1 if stage in ("prepare", "join") else 2)}
    records = federation(ring(4), tmp_path / "hit", code_of=code, restart=True).run()
    assert errors(records) == dict.fromkeys(records)
    assert len(records[worker].deaths) == 1
    assert oracle.same_bits(model(tmp_path / "hit"), model(tmp_path / "calm"))


@pytest.mark.parametrize("worker", ["trainer-0", "trainer-2"])
@pytest.mark.parametrize("piece", [1, 4, 6])
def test_a_member_that_dies_inside_the_ring_and_comes_back_changes_no_bit(
    piece: int, worker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation(ring(4), tmp_path / "calm").run()
    dying_inside(monkeypatch, worker, 6 + piece)
    records = federation(ring(4), tmp_path / "hit", restart=True).run()
    assert errors(records) == dict.fromkeys(records)
    assert len(records[worker].deaths) == 1
    assert oracle.same_bits(model(tmp_path / "hit"), model(tmp_path / "calm"))


@pytest.mark.parametrize("method", ["close", "call", "_open", "begin"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("restart", [False, True], ids=["continue", "restart"])
def test_whatever_a_leader_dies_at_the_job_goes_on(
    method: str, after: bool, restart: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation(ring(3), tmp_path / "calm").run()
    original: Callable[..., Any] = getattr(Serverless, method)
    calls = [0]

    def fatal(self: Serverless, *arguments: Any) -> Any:
        if self.context.name != "trainer-0":
            return original(self, *arguments)
        calls[0] += 1
        if calls[0] == 2 and not after:
            raise Killed(f"killed in {method}")
        result = original(self, *arguments)
        if calls[0] == 2:
            raise Killed(f"killed in {method}")
        return result

    monkeypatch.setattr(Serverless, method, fatal)
    quorum = ALL if restart else SURVIVORS
    records = federation(ring(3), tmp_path / "hit", quorum=quorum, restart=restart).run()
    found = model(tmp_path / "hit")
    if restart:
        assert errors(records) == dict.fromkeys(records)
        assert oracle.same_bits(found, model(tmp_path / "calm"))
    else:
        survived(records, "trainer-0")
        last = [oracle.largest_difference(found, expected(3, {"trainer-0": round})) for round in (1, 2)]
        assert min(last) < 1e-6
        assert records["trainer-1"].results[-1]["rounds"] == 3
        assert not records["trainer-2"].results


def test_where_all_are_needed_the_leader_names_who_is_lost() -> None:
    code: dict[str, type[Role]] = {"trainer-1": dying(Trainer, "train", call=2)}
    records = federation(ring(3), code_of=code).run()
    error = records["trainer-0"].error
    assert isinstance(error, RoundFailed)
    assert error.lost
    reason = "2 of 3 ends can deliver, 3 are needed (trainer-1: trainer-1 failed: killed in train)"
    assert str(error) == f"round 2: {reason}"
    assert isinstance(records["trainer-2"].error, PeerLost | RoundFailed)


def test_two_of_three_are_enough_where_the_policy_says_so(tmp_path: Path) -> None:
    code: dict[str, type[Role]] = {"trainer-2": dying(Trainer, "train", call=2)}
    records = federation(ring(3), tmp_path, quorum=replace(ALL, min_ends=2), code_of=code).run()
    survived(records, "trainer-2")
    assert records["trainer-0"].metrics_of("missing_ends") == {2: 1.0, 3: 1.0}
    assert oracle.largest_difference(model(tmp_path), expected(3, {"trainer-2": 1})) < 1e-6


def test_a_leader_that_is_not_back_in_time_is_named() -> None:
    code: dict[str, type[Role]] = {"trainer-0": dying(Trainer, "train", call=2)}
    job = federation(ring(2), quorum=replace(ALL, rejoin_timeout=1.0), code_of=code)
    records = Federation(job.layout, job.job, tell=False).run()
    error = records["trainer-1"].error
    assert isinstance(error, PeerLost)
    assert str(error) == "trainer-0: trainer-0 failed: killed in train; not back within 1 s"


@pytest.mark.parametrize("worker", ["trainer-0", "trainer-1", "trainer-2"])
@pytest.mark.parametrize("stage", ["fetch", "train", "ring_allreduce", "upload"])
def test_a_group_goes_on_without_a_lost_member(stage: str, worker: str, tmp_path: Path) -> None:
    code: dict[str, type[Role]] = {worker: dying(Trainer, stage, call=2 if stage != "upload" else 1)}
    records = federation(hybrid({"eu": 3, "na": 2}), tmp_path, quorum=SURVIVORS, code_of=code).run()
    if stage == "upload" and worker != "trainer-0":
        assert errors(records) == dict.fromkeys(records)  # it never uploads
        return
    survived(records, worker)
    done = 0 if stage == "upload" else 1
    assert oracle.largest_difference(model(tmp_path), expected(5, {worker: done})) < 1e-6


@pytest.mark.parametrize("worker", ["trainer-0", "trainer-1", "trainer-2", "aggregator-0"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_in_groups_too_whoever_is_started_anew_changes_no_bit(worker: str, after: bool, tmp_path: Path) -> None:
    layout = hybrid({"eu": 3, "na": 2})
    federation(layout, tmp_path / "calm").run()
    stages = ["distribute", "aggregate"] if worker == "aggregator-0" else ["fetch", "train", "ring_allreduce"]
    for stage in [*stages, *(["upload"] if worker == "trainer-0" else [])]:
        base = layout.code["aggregator" if worker == "aggregator-0" else "trainer"]
        code = {worker: dying(base, stage, call=2, after=after)}
        records = federation(layout, tmp_path / stage, code_of=code, restart=True).run()
        assert errors(records) == dict.fromkeys(records), stage
        assert len(records[worker].deaths) == 1
        assert oracle.same_bits(model(tmp_path / stage), model(tmp_path / "calm")), stage
