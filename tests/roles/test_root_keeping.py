from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from roles.errors import BadModel
from roles.settings import Checkpoint, Quorum, Settings, Stop
from roles.state import model_sha256
from roles.strategy import Gathered, State, Strategy
from tests.roles import oracle
from tests.roles.federation import PATIENCE, Job, Record, federate, two_tier
from tests.roles.specimens import Classifier, Points, classifier, mlp

SETTINGS = Settings(seed=2, rounds=4, quorum=Quorum(join_timeout=PATIENCE))
DATA = {f"trainer-{index}": Points(index, size) for index, size in enumerate((12, 9))}


def run(folder: Path | None, settings: Settings = SETTINGS, **more: Any) -> Record:
    """The root of a federation of two trainers."""
    data = [lambda own=own: own for own in DATA.values()]
    factories: dict[str, Any] = {"build_module": classifier(), "build_test_data": lambda: Points(0, 1), **more}
    job = Job(data=data, settings=settings, folder=folder, **factories)
    return federate(two_tier(2), job)["aggregator-0"]


def load(path: Path) -> Any:
    return torch.load(path, weights_only=True)


class Scripted(Classifier):
    """Logs accuracies from a list, one for each test, whatever the weights are."""

    def __init__(self, script: list[float]) -> None:
        super().__init__(mlp())
        self.script = iter(script)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("accuracy", torch.tensor(next(self.script), dtype=torch.float64))


def scripted(*script: float) -> dict[str, Any]:
    return {"build_module": lambda: Scripted(list(script))}


def test_the_result_names_the_last_and_the_best_model_with_their_metrics(tmp_path: Path) -> None:
    record = run(tmp_path, **scripted(0.5, 0.8, 0.8, 0.7))
    (result,) = record.results
    history = oracle.fedavg(classifier(), DATA, seed=2, rounds=4, epochs=1)
    last, best = load(tmp_path / "last.pt"), load(tmp_path / "best.pt")
    assert oracle.largest_difference(last, history[4]) < 1e-6
    assert oracle.largest_difference(best, history[2]) < 1e-6
    assert result["metrics"] == {"accuracy": 0.7}
    assert (result["model"], result["model_sha256"]) == (str(tmp_path / "last.pt"), model_sha256(last))
    assert result["best"] == {
        "round": 2,
        "metrics": {"accuracy": 0.8},
        "model": str(tmp_path / "best.pt"),
        "model_sha256": model_sha256(best),
    }
    assert (result["rounds"], result["samples"], result["stopped"]) == (4, 21, None)
    assert len(result["round_seconds"]) == 4
    assert 0 < sum(result["round_seconds"]) <= result["training_seconds"]


def test_the_metrics_of_the_result_are_those_of_the_last_model(tmp_path: Path) -> None:
    (result,) = run(tmp_path, replace(SETTINGS, rounds=2)).results
    module = classifier()()
    module.load_state_dict(load(tmp_path / "last.pt"))
    inputs, labels = Points(0, 1).test_dataloader().dataset[:]
    with torch.no_grad():
        accuracy = float((module(inputs).argmax(1) == labels).float().mean())
    assert result["metrics"]["accuracy"] == pytest.approx(accuracy)


@pytest.mark.parametrize(("every", "rounds"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (3, [3, 5]), (0, [5]), (9, [5])])
def test_the_model_is_tested_every_so_many_rounds_and_at_the_end(every: int, rounds: list[int], tmp_path: Path) -> None:
    record = run(tmp_path, replace(SETTINGS, rounds=5, evaluate_every=every))
    assert list(record.metrics_of("accuracy")) == rounds
    assert list(record.metrics_of("evaluate_seconds")) == rounds
    assert record.results[0]["metrics"].keys() == {"loss", "accuracy"}


def test_a_target_ends_the_job_with_the_model_that_reached_it(tmp_path: Path) -> None:
    record = run(tmp_path, replace(SETTINGS, rounds=50, stop=Stop(target=0.9)), **scripted(0.5, 0.7, 0.95))
    (result,) = record.results
    assert (result["rounds"], record.rounds) == (3, [1, 2, 3])
    assert result["stopped"] == "accuracy 0.95 reached the target 0.9"
    assert result["best"]["round"] == 3
    assert oracle.same_bits(load(tmp_path / "last.pt"), load(tmp_path / "best.pt"))


def test_patience_ends_the_job_and_counts_evaluations_not_rounds(tmp_path: Path) -> None:
    settings = replace(SETTINGS, rounds=50, evaluate_every=2, stop=Stop(patience=2))
    record = run(tmp_path, settings, **scripted(0.5, 0.7, 0.7, 0.6))
    assert record.rounds == [1, 2, 3, 4, 5, 6, 7, 8]
    assert record.results[0]["stopped"] == "accuracy has not improved for 2 evaluations"
    assert record.results[0]["best"]["round"] == 4
    assert record.results[0]["metrics"] == {"accuracy": 0.6}


def test_trainers_end_well_when_the_job_stops_early(tmp_path: Path) -> None:
    data = [lambda own=own: own for own in DATA.values()]
    settings = replace(SETTINGS, rounds=50, stop=Stop(target=0.5))
    job = Job(**scripted(0.6), data=data, build_test_data=lambda: Points(0, 1), settings=settings)
    records = federate(two_tier(2), job)
    assert [record.error for record in records.values()] == [None] * 3
    assert records["trainer-0"].rounds == [1]


@pytest.mark.parametrize(("every", "keep", "left"), [(1, 2, [3, 4]), (1, 9, [1, 2, 3, 4]), (2, 1, [4]), (3, 2, [3]), (0, 2, [])])
def test_the_newest_checkpoints_are_kept(every: int, keep: int, left: list[int], tmp_path: Path) -> None:
    record = run(tmp_path, replace(SETTINGS, checkpoint=Checkpoint(every=every, keep=keep)))
    assert sorted(path.name for path in tmp_path.glob("round-*")) == [f"round-{round:05d}.pt" for round in left]
    assert list(record.metrics_of("checkpoint_seconds")) == [round for round in range(1, 5) if every and round % every == 0]
    assert not list(tmp_path.glob("*.tmp"))


class Counted(Strategy):
    """Remembers how many steps it took."""

    steps = 0

    def step(self, current: State, gathered: Gathered, round: int) -> State:
        self.steps += 1
        return gathered.mean

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]


def test_a_checkpoint_holds_what_a_resumed_job_needs(tmp_path: Path) -> None:
    settings = replace(SETTINGS, stop=Stop(patience=9))
    run(tmp_path, settings, strategy=Counted, **scripted(0.5, 0.8, 0.7, 0.6))
    content = load(tmp_path / "round-00003.pt")
    history = oracle.fedavg(classifier(), DATA, seed=2, rounds=4, epochs=1)
    assert oracle.largest_difference(content["model"], history[3]) < 1e-6
    assert (content["round"], content["seed"], content["parts"]) == (3, 2, {"strategy": {"steps": 3}})
    judge = content["judge"]
    assert [judge[key] for key in ("best", "stop_best", "stale", "stop_reason")] == [0.8, 0.8, 1, None]
    assert content["metrics"] == {"accuracy": 0.7}
    assert content["best"]["round"] == 2
    assert len(content["round_seconds"]) == 3


def test_an_example_of_the_input_is_stored_for_the_signature(tmp_path: Path) -> None:
    run(tmp_path, replace(SETTINGS, rounds=1))
    assert load(tmp_path / "example.pt").shape == (2, 4)


def test_without_a_folder_nothing_is_stored_and_the_result_says_so() -> None:
    (result,) = run(None, replace(SETTINGS, rounds=1)).results
    assert result["model"] is None
    assert result["best"]["model"] is None
    assert len(result["model_sha256"]) == 64


def test_without_data_to_test_on_the_last_model_is_stored_all_the_same(tmp_path: Path) -> None:
    (result,) = run(tmp_path, replace(SETTINGS, rounds=2), build_test_data=None).results
    assert (result["metrics"], result["best"]) == ({}, {})
    history = oracle.fedavg(classifier(), DATA, seed=2, rounds=2, epochs=1)
    assert oracle.largest_difference(load(tmp_path / "last.pt"), history[2]) < 1e-6
    assert not (tmp_path / "best.pt").exists()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (replace(SETTINGS, stop=Stop(metric="f1", target=1.0)), r"job\.stop\.metric = 'f1'.*\['accuracy', 'loss'\]"),
        (replace(SETTINGS, checkpoint=Checkpoint(metric="f1")), r"checkpoint\.metric = 'f1'"),
    ],
)
@pytest.mark.parametrize("overlap", [False, True])
def test_what_goes_wrong_in_a_review_ends_the_root_with_its_reason(settings: Settings, text: str, overlap: bool) -> None:
    with pytest.raises(BadModel, match=text):
        raise run(None, settings, overlap=overlap).error or AssertionError("the root ended well")


def test_rounds_are_timed_without_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(monotonic=lambda: 1000.0)

    class Slow(Classifier):
        """Its test takes a thousand seconds of a clock that stands still otherwise."""

        def test_step(self, batch: Any, batch_idx: int) -> None:
            now = clock.monotonic() + 1000.0
            clock.monotonic = lambda: now
            super().test_step(batch, batch_idx)

    for module in ("aggregator", "root", "review", "fit"):
        monkeypatch.setattr(f"roles.{module}.time", clock)
    record = run(None, replace(SETTINGS, rounds=3), build_module=lambda: Slow(mlp()))
    assert record.results[0]["round_seconds"] == [0.0] * 3
    assert record.metrics_of("round_seconds") == {1: 0.0, 2: 0.0, 3: 0.0}
    assert record.metrics_of("evaluate_seconds") == {1: 1000.0, 2: 1000.0, 3: 1000.0}
    assert record.results[0]["training_seconds"] == 3000.0
