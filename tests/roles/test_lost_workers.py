from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from roles.aggregator import Aggregator
from roles.coordinator import Coordinator
from roles.errors import RoundFailed
from roles.role import Role
from roles.settings import Quorum, Settings
from roles.trainer import Task, Trainer
from tests.roles import oracle
from tests.roles.fatal import dying
from tests.roles.federation import PATIENCE, Job, Killed, Layout, Record, coordinated, federate, three_tier, two_tier
from tests.roles.specimens import Points, classifier
from transports.errors import PeerLost
from transports.message import Message

SIZES = (12, 9, 16, 7)
DATA = {f"trainer-{index}": Points(index, size) for index, size in enumerate(SIZES)}
SURVIVORS = Quorum(join_timeout=PATIENCE, rejoin_timeout=PATIENCE, survivors=True)
ALL = replace(SURVIVORS, survivors=False)


def run(layout: Layout, code_of: Mapping[str, type[Role]], quorum: Quorum, folder: Path | None = None) -> dict[str, Record]:
    data = [lambda own=own: own for own in DATA.values()][: len(layout.trainers)]
    settings = Settings(seed=4, rounds=4, quorum=quorum)
    return federate(layout, Job(build_module=classifier(), data=data, settings=settings, folder=folder, code_of=code_of))


def survived(records: Mapping[str, Record], *lost: str) -> None:
    """Those who were lost died, everybody else ended well."""
    errors = {name: record.error for name, record in records.items()}
    assert {name for name, error in errors.items() if isinstance(error, Killed)} == set(lost)
    assert {name: error for name, error in errors.items() if name not in lost} == {
        name: None for name in errors if name not in lost
    }


def as_expected(folder: Path, last: Mapping[str, int], trainers: int) -> None:
    """The model is that of the trainers that took part; `last`: the last round of those that were lost."""
    data = {name: own for name, own in DATA.items() if int(name[-1]) < trainers}

    def there(round: int, worker: str) -> bool:
        return round <= last.get(worker, round)

    expected = oracle.fedavg(classifier(), data, seed=4, rounds=4, epochs=1, takes_part=there)[-1]
    assert oracle.largest_difference(torch.load(folder / "last.pt", weights_only=True), expected) < 1e-6


@pytest.mark.parametrize("stage", ["fetch", "train", "upload"])
@pytest.mark.parametrize("quorum", [SURVIVORS, replace(ALL, min_ends=2), replace(ALL, min_ends=0.5)], ids=["all", "two", "half"])
def test_a_lost_trainer_is_missing_from_its_round_on(stage: str, quorum: Quorum, tmp_path: Path) -> None:
    records = run(two_tier(3), {"trainer-1": dying(Trainer, stage, call=2)}, quorum, tmp_path)
    survived(records, "trainer-1")
    assert records["aggregator-0"].metrics_of("updates") == {1: 3.0, 2: 2.0, 3: 2.0, 4: 2.0}
    assert records["aggregator-0"].metrics_of("missing_ends") == {2: 1.0, 3: 1.0, 4: 1.0}
    as_expected(tmp_path, {"trainer-1": 1}, 3)


def test_a_trainer_that_is_lost_after_its_update_was_taken_counts_in_that_round(tmp_path: Path) -> None:
    records = run(two_tier(3), {"trainer-1": dying(Trainer, "upload", call=2, after=True)}, SURVIVORS, tmp_path)
    survived(records, "trainer-1")
    assert records["aggregator-0"].metrics_of("updates") == {1: 3.0, 2: 3.0, 3: 2.0, 4: 2.0}
    as_expected(tmp_path, {"trainer-1": 2}, 3)


def test_a_trainer_that_never_comes_is_not_waited_for_once_it_is_known_to_be_lost(tmp_path: Path) -> None:
    records = run(two_tier(3), {"trainer-1": dying(Trainer, "prepare")}, SURVIVORS, tmp_path)
    survived(records, "trainer-1")
    as_expected(tmp_path, {"trainer-1": 0}, 3)


def test_where_all_are_needed_a_lost_trainer_fails_the_round_and_the_error_says_that_it_was_lost() -> None:
    records = run(two_tier(3), {"trainer-1": dying(Trainer, "train", call=2)}, ALL)
    error = records["aggregator-0"].error
    assert isinstance(error, RoundFailed)
    assert error.lost
    reason = "2 of 3 ends can deliver, 3 are needed (trainer-1: trainer-1 failed: killed in train)"
    assert str(error) == f"round 2: {reason}"


def test_with_nobody_left_the_root_fails() -> None:
    error = run(two_tier(2), dict.fromkeys(("trainer-0", "trainer-1"), dying(Trainer, "train", call=2)), SURVIVORS)[
        "aggregator-0"
    ].error
    assert isinstance(error, RoundFailed)
    assert error.lost
    assert "trainer-0" in str(error)
    assert "trainer-1" in str(error)


def test_a_middle_aggregator_without_ends_sits_out_and_the_root_goes_on_with_the_others(tmp_path: Path) -> None:
    layout = three_tier({"eu": 2, "na": 1})
    records = run(layout, dict.fromkeys(("trainer-0", "trainer-1"), dying(Trainer, "train", call=3)), SURVIVORS, tmp_path)
    survived(records, "trainer-0", "trainer-1")
    assert records["middle-0"].rounds == [1, 2, 3, 4]
    assert records["top-0"].metrics_of("updates") == {1: 2.0, 2: 2.0, 3: 1.0, 4: 1.0}
    as_expected(tmp_path, {"trainer-0": 2, "trainer-1": 2}, 3)


def test_a_quorum_of_one_channel_does_not_bind_another(tmp_path: Path) -> None:
    layout = three_tier({"eu": 3, "na": 1})
    quorums = {"param": replace(ALL, min_ends=2)}
    settings = Settings(seed=4, rounds=4, quorum=ALL, channels=quorums)
    data = [lambda own=own: own for own in DATA.values()]
    code = {"trainer-1": dying(Trainer, "train", call=2)}
    records = federate(layout, Job(build_module=classifier(), data=data, settings=settings, folder=tmp_path, code_of=code))
    survived(records, "trainer-1")
    assert records["top-0"].metrics_of("updates") == dict.fromkeys(range(1, 5), 2.0)
    as_expected(tmp_path, {"trainer-1": 1}, 4)


def test_a_lost_middle_aggregator_takes_its_trainers_with_it_and_the_rest_goes_on(tmp_path: Path) -> None:
    layout = three_tier({"eu": 2, "na": 1})
    records = run(layout, {"middle-0": dying(Aggregator, "upload", call=2)}, SURVIVORS, tmp_path)
    for name in ("trainer-0", "trainer-1"):
        error = records[name].error
        assert isinstance(error, PeerLost)
        assert str(error) == "middle-0: middle-0 failed: killed in upload"
    assert records["top-0"].error is None
    assert records["top-0"].metrics_of("updates") == {1: 2.0, 2: 1.0, 3: 1.0, 4: 1.0}
    as_expected(tmp_path, {"trainer-0": 1, "trainer-1": 1}, 3)


@pytest.mark.parametrize("name", ["top-0", "coordinator-0"])
@pytest.mark.parametrize("quorum", [ALL, SURVIVORS], ids=["all", "survivors"])
def test_without_the_root_or_the_coordinator_nobody_goes_on(name: str, quorum: Quorum) -> None:
    code = {"top-0": dying(Aggregator, "distribute", call=2), "coordinator-0": dying(Coordinator, "coordinate_round", call=2)}
    records = run(coordinated(4, 2), {name: code[name]}, quorum)
    assert isinstance(records[name].error, Killed)
    for other, record in records.items():
        if other != name:
            assert isinstance(record.error, PeerLost | RoundFailed), other
            assert f"{name} failed: killed" in str(record.error), other


@pytest.mark.parametrize("stage", ["fetch", "train", "upload"])
def test_a_lost_trainer_is_not_mapped_any_more(stage: str, tmp_path: Path) -> None:
    records = run(coordinated(4, 2), {"trainer-3": dying(Trainer, stage, call=2)}, SURVIVORS, tmp_path)
    survived(records, "trainer-3")
    as_expected(tmp_path, {"trainer-3": 1}, 4)


class ToTheFirst(Coordinator):
    """Maps every trainer to the first middle aggregator that is there."""

    def assignment(self, round: int) -> dict[str, str]:
        mapping = super().assignment(round)
        return dict.fromkeys(mapping, min(self.there("coordinateWithMidAgg")))


@pytest.mark.parametrize(("stage", "after"), [("fetch", True), ("distribute", False), ("distribute", True), ("upload", False)])
def test_trainers_of_a_lost_middle_aggregator_train_below_another_one_in_the_same_round(
    stage: str, after: bool, tmp_path: Path
) -> None:
    parents: dict[str, list[str]] = {}

    class Noting(Trainer):
        def train(self, task: Task) -> Message:
            parents.setdefault(self.context.name, []).append(f"{task.round} {task.parent}")
            return super().train(task)

    code: dict[str, type[Role]] = {"coordinator-0": ToTheFirst, "middle-0": dying(Aggregator, stage, call=2, after=after)}
    records = run(coordinated(4, 2, trainer=Noting), code, SURVIVORS, tmp_path)
    survived(records, "middle-0")
    assert records["top-0"].metrics_of("samples") == dict.fromkeys(range(1, 5), sum(SIZES))
    for heard in parents.values():
        assert heard[0] == "1 middle-0"
        assert heard[-3:] == ["2 middle-1", "3 middle-1", "4 middle-1"]
    as_expected(tmp_path, {}, 4)


def test_where_all_are_needed_a_coordinator_that_lacks_workers_says_so() -> None:
    records = run(coordinated(4, 2), {"trainer-3": dying(Trainer, "fetch", call=1)}, ALL)
    errors = [str(record.error) for name, record in records.items() if name != "trainer-3"]
    assert all("trainer-3" in text for text in errors), errors
