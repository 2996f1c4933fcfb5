"""Delivery into a real store whose answers get lost, in this process."""

import os
from typing import Any

import mlflow
import pytest
import requests

from flame_run.track import TrackError
from flame_run.track.delivery import Delivery
from flame_run.track.runs import Runs
from flame_run.track.state import TrackState
from flame_run.track.store import Store, open_store


class Unreliable:
    """A client that does what it is asked but loses the first answer of some calls."""

    def __init__(self, client: Any, *names: str) -> None:
        self._client = client
        self._lost = set(names)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            answer = method(*args, **kwargs)
            if name in self._lost:
                self._lost.remove(name)
                raise requests.ConnectionError(f"the answer to {name} was lost")
            return answer

        return call


def open_runs(settings: Any, *lost: str) -> tuple[Runs, TrackState, Any]:
    state = TrackState.begin(settings)
    store = open_store(settings)
    client = Unreliable(store.client, *lost)
    return Runs(Store(client, store.experiment_id), state), state, store.client  # type: ignore[arg-type]


def values(client: Any, run_id: str | None, name: str = "loss") -> list[tuple[int, float]]:
    return sorted((each.step, each.value) for each in client.get_metric_history(run_id, name))


def test_a_batch_whose_answer_was_lost_counts_once(folder, settings):
    runs, state, client = open_runs(settings(), "log_batch")
    state.described = True
    runs.open()
    folder.rounds(2)
    with pytest.raises(TrackError, match="log metrics: the answer to log_batch was lost"):
        runs.send_metrics()
    assert state.unsent == 6
    assert runs.send_metrics() == 6
    assert state.unsent == 0
    assert values(client, state.run_id) == [(1, 1.0), (2, 0.5)]


def test_a_run_whose_creation_was_never_answered_is_found_again(folder, settings):
    runs, state, client = open_runs(settings(), "create_run")
    with pytest.raises(TrackError, match="make the runs"):
        runs.open()
    assert TrackState.load(folder.path).run_id is None
    runs.open()
    assert len(client.search_runs([state.experiment_id])) == 4


def test_children_that_were_made_before_a_crash_are_found_again(folder, settings):
    runs, state, _ = open_runs(settings())
    runs.open()
    known = dict(state.children)
    state.children = {"trainer-1": known["trainer-1"]}
    runs.open()
    assert state.children == known


def test_only_whole_lines_are_delivered_and_the_rest_later(folder, settings):
    runs, state, client = open_runs(settings())
    runs.open()
    with (folder.path / "metrics.jsonl").open("w") as file:
        file.write('{"round": 1, "worker": "trainer-0", "name": "loss", "value": 2.0, "time": 1.0}\n{"round": 2, "wor')
        file.flush()
        assert runs.send_metrics() == 1
        assert runs.send_metrics() == 0
        file.write('ker": "trainer-0", "name": "loss", "value": 1.0, "time": 2.0}\n')
        file.flush()
        assert runs.send_metrics() == 1
    assert values(client, state.children["trainer-0"]) == [(1, 2.0), (2, 1.0)]


def test_more_metrics_than_a_batch_takes_all_arrive(folder, settings):
    runs, state, client = open_runs(settings())
    runs.open()
    for step in range(1, 2503):
        folder.metric(step, "aggregator-0", "loss", step / 8)
    assert runs.send_metrics() == 2502
    expected = [(step, step / 8) for step in range(1, 2503)]
    assert values(client, state.run_id) == expected
    assert values(client, state.children["aggregator-0"]) == expected


def test_odd_values_names_workers_and_lines_stop_nothing(folder, settings):
    runs, state, client = open_runs(settings())
    runs.open()
    folder.metric(None, "trainer-0", "top@5 %", "Infinity")
    folder.metric(1, "trainer-0", "nothing", "NaN")
    folder.metric(1, "late-0", "loss", 3)
    folder.append("metrics.jsonl", {"round": 1, "worker": "trainer-0"})
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write("not json\n")
    folder.metric(2, "trainer-0", "loss", 1.0)
    runs.send_metrics()
    child = client.get_run(state.children["trainer-0"]).data.metrics
    assert child.keys() == {"top_5 _", "nothing", "loss"}
    assert child["nothing"] != child["nothing"]
    assert values(client, state.children["late-0"]) == [(1, 3.0)]
    assert (state.unsent, state.refused) == (0, 2)
    assert Delivery(state).result().warnings == ("2 lines of metrics.jsonl are no records and were left out",)


def test_with_several_roots_the_global_metrics_carry_their_names(folder, settings):
    runs, state, client = open_runs(settings(roots=("trainer-0", "trainer-1")))
    runs.open()
    folder.rounds(1)
    runs.send_metrics()
    assert client.get_run(state.run_id).data.metrics == {"loss/trainer-0": 2.0, "loss/trainer-1": 3.0}


@pytest.mark.parametrize(
    ("status", "expected"), [("completed", "FINISHED"), ("failed", "FAILED"), ("terminated", "KILLED"), (None, "KILLED")]
)
def test_the_final_status_of_the_job_is_that_of_the_run(folder, settings, status, expected):
    runs, state, client = open_runs(settings())
    runs.open()
    if status is not None:
        folder.end(status)
    runs.close()
    assert {client.get_run(run_id).info.status for run_id in (state.run_id, *state.children.values())} == {expected}


def test_a_deleted_experiment_is_a_permanent_error_that_says_what_to_do(folder, settings):
    chosen = settings()
    store = open_store(chosen)
    store.client.delete_experiment(store.experiment_id)
    with pytest.raises(TrackError, match=r"'tiny' .* was deleted; restore it or choose tracking.experiment") as caught:
        open_store(chosen)
    assert caught.value.permanent


def test_the_module_that_fails_early_is_told_at_the_end_and_stops_nothing_else(folder, settings):
    state = TrackState.begin(settings())
    folder.module("Straight", None)
    (folder.path / "checkpoints" / "module.json").write_text('{"module": {"_target_": "nowhere.Nothing"}}')
    (folder.path / "checkpoints" / "example.pt").write_bytes(b"nothing")
    delivery = Delivery(state)
    delivery.step()
    delivery.prepare_models()
    failures = {}
    for name, action in delivery.last_steps():
        try:
            action()
        except TrackError as error:
            failures[name] = error
    assert failures.keys() == {"the models"}
    assert failures["the models"].permanent
    assert "nowhere" in str(failures["the models"])
    assert state.closed


def test_telemetry_is_off_before_mlflow_is_imported_unless_asked_for(folder, settings, monkeypatch):
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    monkeypatch.delenv("DO_NOT_TRACK", raising=False)
    open_store(settings(telemetry=True))
    assert "DO_NOT_TRACK" not in os.environ
    open_store(settings())
    assert os.environ["DO_NOT_TRACK"] == "true"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert mlflow.get_tracking_uri() == settings().uri
