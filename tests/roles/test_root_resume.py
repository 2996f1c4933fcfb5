"""Federations that die and go on."""

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from roles import seals
from roles.catalogue import Traits
from roles.errors import BadModel
from roles.fit import LocalEntries
from roles.part import Report
from roles.selectors.selector import All as EveryEnd
from roles.settings import Checkpoint, Quorum, Settings, Share, Stop
from roles.strategy import Gathered, State, Strategy
from roles.trainer import Task, Trainer
from tests.roles.federation import PATIENCE, Job, Killed, Layout, Record, coordinated, federate, three_tier, two_tier
from tests.roles.specimens import CLASSES, FEATURES, Classifier, Points, classifier, mlp
from transports.message import Message

SETTINGS = Settings(seed=2, rounds=6, optimizer="keep", quorum=Quorum(join_timeout=PATIENCE))


class Mortal(Trainer):
    """Dies in `round`: before it trains, or with its update in hand."""

    round = 0
    trained = False

    def train(self, task: Task) -> Message:
        if task.round == self.round and not self.trained:
            raise RuntimeError("killed")
        update = super().train(task)
        if task.round == self.round:
            self.keep.save(task.round)
            raise RuntimeError("killed")
        return update


def dying(round: int, *, trained: bool) -> type[Mortal]:
    return type("Dying", (Mortal,), {"round": round, "trained": trained})


class Momentum(Strategy):
    """Server momentum: a state of tensors that any lost or repeated round changes."""

    def __init__(self) -> None:
        self.velocity: dict[str, Tensor] = {}

    def step(self, current: State, gathered: Gathered, round: int) -> State:
        stepped = {}
        for name, value in current.items():
            old = self.velocity.get(name, torch.zeros_like(value))
            self.velocity[name] = 0.5 * old + (value - gathered.mean[name])
            stepped[name] = value - self.velocity[name]
        return stepped

    def state_dict(self) -> dict[str, Any]:
        return {"velocity": dict(self.velocity)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.velocity = dict(state["velocity"])


def momentum_classifier() -> Classifier:
    module = Classifier(mlp(), momentum=0.9)
    module.gamma = 0.9
    return module


def job(folder: Path, settings: Settings = SETTINGS, **more: Any) -> Job:
    data = [lambda index=index: Points(index, 10 + index) for index in range(4)]
    defaults = {"build_module": momentum_classifier, "build_test_data": lambda: Points(0, 1), "strategy": Momentum}
    factories: dict[str, Any] = {**defaults, **more}
    return Job(data=data, settings=settings, folder=folder / "models", states=folder / "states", **factories)


def root(records: Mapping[str, Record]) -> Record:
    return next(record for record in records.values() if record.results)


def die_and_go_on(layout: Layout, folder: Path, mortal: type[Trainer], settings: Settings = SETTINGS, **more: Any) -> Record:
    """Run until `trainer-0` dies, then again in the same folders; returns what the second root reported."""
    first = federate(layout, job(folder, settings, code_of={"trainer-0": mortal}, **more))
    assert str(first["trainer-0"].error) == "killed"
    return root(federate(layout, job(folder, settings, resume=True, **more)))


LAYOUTS: Mapping[str, Callable[[], Layout]] = {
    "two tiers": lambda: two_tier(2),
    "three tiers": lambda: three_tier({"a": 2, "b": 2}),
    "coordinated": lambda: coordinated(3, 2),
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Topology -> what its root reports at the end of an undisturbed job."""
    return {name: root(federate(make(), job(tmp_path_factory.mktemp("whole")))).results[0] for name, make in LAYOUTS.items()}


def same(result: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    keys = ("model_sha256", "metrics", "rounds", "samples", "stopped")
    bests = [{key: value for key, value in each["best"].items() if key != "model"} for each in (result, expected)]
    return all(result[key] == expected[key] for key in keys) and bests[0] == bests[1]


@pytest.mark.parametrize("topology", LAYOUTS)
@pytest.mark.parametrize(("round", "trained"), [(1, False), (2, True), (4, False), (6, True)])
def test_a_job_that_died_anywhere_ends_with_the_model_of_an_undisturbed_one(
    topology: str, round: int, trained: bool, undisturbed: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    record = die_and_go_on(LAYOUTS[topology](), tmp_path, dying(round, trained=trained))
    assert same(record.results[0], undisturbed[topology])
    assert len(record.results[0]["round_seconds"]) == 6
    assert record.rounds[-1] == 6
    assert round - 2 <= record.rounds[0] <= round


@pytest.mark.parametrize("topology", LAYOUTS)
@pytest.mark.parametrize("round", [1, 4])
def test_a_root_that_is_started_anew_goes_on_with_workers_that_have_been_further(
    topology: str, round: int, undisturbed: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """It dies with all updates in hand: every worker is asked for a round again that it has done."""
    died: list[int] = []

    class Fragile(Momentum):
        def step(self, current: State, gathered: Gathered, now: int) -> State:
            if now == round and not died:
                died.append(now)
                raise Killed("in the middle of its step")
            return super().step(current, gathered, now)

    records = federate(LAYOUTS[topology](), job(tmp_path, strategy=Fragile), restart=True)
    assert died == [round]
    assert [record.error for record in records.values()] == [None] * len(records)
    assert same(root(records).results[0], undisturbed[topology])


@pytest.mark.parametrize("every", [2, 3])
def test_checkpoints_of_every_few_rounds_are_enough(every: int, tmp_path: Path) -> None:
    settings = replace(SETTINGS, checkpoint=Checkpoint(every=every))
    whole = root(federate(two_tier(2), job(tmp_path / "whole", settings))).results[0]
    record = die_and_go_on(two_tier(2), tmp_path / "cut", dying(6, trained=True), settings)
    assert same(record.results[0], whole)
    assert record.rounds[0] <= 6 - 6 % every


@pytest.mark.parametrize("harm", [b"", b"half of it", None])
def test_a_torn_newest_checkpoint_is_passed_over_by_name(
    harm: bytes | None, undisturbed: dict[str, dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    layout = two_tier(2)
    federate(layout, job(tmp_path, code_of={"trainer-0": dying(5, trained=True)}))
    newest = list(seals.round_files(tmp_path / "models").values())[-1]
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data if harm is None else harm)
    record = root(federate(layout, job(tmp_path, resume=True)))
    assert same(record.results[0], undisturbed["two tiers"])
    assert f"passing over the checkpoint {newest}" in caplog.text


def test_without_a_checkpoint_a_job_starts_from_its_first_round(tmp_path: Path, undisturbed: dict[str, dict[str, Any]]) -> None:
    record = root(federate(two_tier(2), job(tmp_path, resume=True)))
    assert record.rounds == [1, 2, 3, 4, 5, 6]
    assert same(record.results[0], undisturbed["two tiers"])


def test_a_finished_job_goes_on_to_more_rounds_as_if_it_had_never_stopped(
    tmp_path: Path, undisturbed: dict[str, dict[str, Any]]
) -> None:
    federate(two_tier(2), job(tmp_path, replace(SETTINGS, rounds=3)))
    record = root(federate(two_tier(2), job(tmp_path, resume=True)))
    assert record.rounds == [4, 5, 6]
    assert same(record.results[0], undisturbed["two tiers"])


def test_a_job_that_has_all_its_rounds_only_ends_again(tmp_path: Path) -> None:
    (first,) = root(federate(two_tier(2), job(tmp_path))).results
    record = root(federate(two_tier(2), job(tmp_path, resume=True)))
    assert record.rounds == []
    assert same(record.results[0], first)
    assert record.results[0]["round_seconds"] == first["round_seconds"]


def test_a_last_round_that_was_never_tested_is_tested_now(tmp_path: Path) -> None:
    settings = replace(SETTINGS, evaluate_every=0)
    federate(two_tier(2), job(tmp_path / "b", replace(settings, rounds=9), code_of={"trainer-0": dying(5, trained=False)}))
    done = list(seals.round_files(tmp_path / "b" / "models"))[-1]
    (result,) = root(federate(two_tier(2), job(tmp_path / "b", replace(settings, rounds=done), resume=True))).results
    assert result["rounds"] == done
    assert result["metrics"].keys() == {"loss", "accuracy"}


class Scripted(Classifier):
    """Logs accuracies from a list, one for each test, whatever the weights are."""

    def __init__(self, script: Iterator[float]) -> None:
        super().__init__(mlp())
        self.script = script

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("accuracy", torch.tensor(next(self.script), dtype=torch.float64))


def test_patience_and_the_best_model_live_on(tmp_path: Path) -> None:
    settings = replace(SETTINGS, rounds=50, stop=Stop(patience=3))
    accuracies = [0.5, 0.8, 0.7, 0.7, 0.7]
    layout, models = two_tier(2), tmp_path / "models"
    mortal = {"trainer-0": dying(4, trained=True)}
    federate(layout, job(tmp_path, settings, build_module=lambda: Scripted(iter(accuracies)), code_of=mortal))
    done = list(seals.round_files(models))[-1]
    record = root(federate(layout, job(tmp_path, settings, build_module=lambda: Scripted(iter(accuracies[done:])), resume=True)))
    (result,) = record.results
    assert (result["rounds"], result["stopped"]) == (5, "accuracy has not improved for 3 evaluations")
    assert (result["best"]["round"], result["best"]["metrics"]) == (2, {"accuracy": 0.8})
    assert result["best"]["model"] == str(models / "best.pt")


def test_a_job_that_ended_early_goes_on_under_another_rule_only(tmp_path: Path) -> None:
    settings = replace(SETTINGS, rounds=5, stop=Stop(target=0.7))
    script = [0.5, 0.8, 0.9, 0.6, 0.6]
    layout = two_tier(2)
    federate(layout, job(tmp_path, settings, build_module=lambda: Scripted(iter(script))))
    again = root(federate(layout, job(tmp_path, settings, build_module=lambda: Scripted(iter(script[2:])), resume=True)))
    assert (again.rounds, again.results[0]["rounds"]) == ([], 2)
    higher = replace(settings, stop=Stop(target=0.85))
    further = root(federate(layout, job(tmp_path, higher, build_module=lambda: Scripted(iter(script[2:])), resume=True)))
    assert further.results[0]["stopped"] == "accuracy 0.9 reached the target 0.85"


def test_the_best_model_is_that_of_the_checkpoint_not_a_later_one(tmp_path: Path) -> None:
    settings = replace(SETTINGS, checkpoint=Checkpoint(every=2))
    script = [0.5, 0.6, 0.9, 0.1, 0.1, 0.1]
    layout, models = two_tier(2), tmp_path / "models"
    mortal = {"trainer-0": dying(4, trained=True)}
    federate(layout, job(tmp_path, settings, build_module=lambda: Scripted(iter(script)), code_of=mortal))
    assert list(seals.round_files(models)) == [2]
    assert (models / "best-00003.pt").exists()
    stopped = replace(settings, rounds=2)
    (result,) = root(federate(layout, job(tmp_path, stopped, build_module=lambda: Scripted(iter([])), resume=True))).results
    assert result["best"]["round"] == 2
    assert torch.load(models / "best.pt", weights_only=True).keys() == torch.load(models / "last.pt", weights_only=True).keys()
    assert not (models / "best-00003.pt").exists()


def test_models_that_were_the_best_once_stay_as_long_as_a_checkpoint_needs_them(tmp_path: Path) -> None:
    script = [0.1, 0.2, 0.3, 0.1, 0.5, 0.6]
    federate(two_tier(2), job(tmp_path, build_module=lambda: Scripted(iter(script))))
    models = tmp_path / "models"
    assert list(seals.round_files(models)) == [5, 6]
    assert sorted(path.name for path in models.glob("best*")) == ["best-00005.pt", "best-00006.pt", "best.pt"]
    assert (models / "best.pt").samefile(models / "best-00006.pt")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"settings": replace(SETTINGS, seed=3)}, r"job\.seed=2, not 3"),
        ({"build_module": classifier(lambda: torch.nn.Sequential(torch.nn.Linear(4, 3)))}, "does not fit Classifier"),
    ],
)
def test_a_checkpoint_of_another_job_is_refused(change: dict[str, Any], text: str, tmp_path: Path) -> None:
    federate(two_tier(2), job(tmp_path, replace(SETTINGS, rounds=1)))
    records = federate(two_tier(2), job(tmp_path, **change, resume=True))
    with pytest.raises(BadModel, match=text):
        raise records["aggregator-0"].error or AssertionError("it took the checkpoint")


def test_entries_that_are_not_exchanged_are_the_workers_own_and_come_back(tmp_path: Path) -> None:
    settings = replace(SETTINGS, optimizer="reset", share=Share(exclude=("net.2.*",)))
    layout = two_tier(2)
    whole = federate(layout, job(tmp_path / "whole", settings))
    federate(layout, job(tmp_path / "cut", settings, code_of={"trainer-0": dying(4, trained=True)}))
    cut = federate(layout, job(tmp_path / "cut", settings, resume=True))
    for trainer in layout.trainers:
        for name, value in whole[trainer].state.items():
            assert torch.equal(value, cut[trainer].state[name]), (trainer, name)


def test_a_training_without_memory_remembers_nothing() -> None:
    assert LocalEntries(classifier()(), Share()).names == ()
    assert LocalEntries(classifier()(), Share(exclude=("net.0.*",))).names == ("net.0.weight", "net.0.bias")


class Counting(EveryEnd):
    """Counts the updates that it has heard of, and says when those of round 2 have come."""

    traits = Traits(selects=True)

    def __init__(self, second: threading.Event) -> None:
        self.count = 0
        self.second = second

    def heard(self, report: Report) -> None:
        self.count += 1
        if report.round == 2:
            self.second.set()

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.count = state["count"]


def test_a_checkpoint_has_what_a_selector_knew_when_its_round_closed(tmp_path: Path) -> None:
    second = threading.Event()

    class Patient(Classifier):
        """The test of the first model lasts until updates of round 2 have come."""

        def on_test_start(self) -> None:
            assert second.wait(PATIENCE)

    made = job(
        tmp_path, build_module=lambda: Patient(nn.Linear(FEATURES, CLASSES)), selector=lambda: Counting(second), overlap=True
    )
    made = replace(made, settings=replace(made.settings, rounds=2))
    records = federate(two_tier(3), made)
    assert {name: record.error for name, record in records.items()} == dict.fromkeys(records)
    stored = torch.load(tmp_path / "models" / "round-00001.pt", weights_only=True)
    assert stored["parts"]["selector"] == {"count": 3}
