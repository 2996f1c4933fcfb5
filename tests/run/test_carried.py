"""Files that every worker needs travel in the workers' parts."""

from pathlib import Path
from typing import Any

import pytest

from flame_run.errors import InvalidConfig
from flame_run.run.carried import carry
from flame_run.run.simulated import simulated_of

TRACE = "worker,round,compute,network\ntrainer-0,1,2.5,0.25\ntrainer-0,3,7,0\n"


def config(**changes: Any) -> dict[str, Any]:
    return {"job": {"seed": 3}, "selector": {"_target_": "roles.selectors.selector.All"}, "model": {}, **changes}


def test_a_configuration_without_files_stays_as_it_is() -> None:
    assert carry(config()) == config()


def test_a_trace_of_times_is_carried_and_understood_where_there_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trace.csv").write_text(TRACE)
    monkeypatch.chdir(tmp_path)
    carried = carry(config(job={"seed": 3, "simulatedTime": {"compute": 1.0, "trace": "trace.csv"}}))
    (tmp_path / "trace.csv").unlink()
    clock = simulated_of(carried["job"])
    assert clock is not None
    assert [clock.task("trainer-0", round) for round in (1, 2, 3, 4)] == [3.0, 3.0, 7.0, 7.0]
    assert clock.task("trainer-1", 1) == 1.0


def test_a_trace_of_who_is_there_is_carried_as_intervals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there.csv").write_text("worker,first,last\ntrainer-0,1,5\ntrainer-0,9,\n")
    monkeypatch.chdir(tmp_path)
    carried = carry(config(selector={"_target_": "roles.selectors.trace.Trace", "file": "there.csv", "unlisted": True}))
    assert carried["selector"]["intervals"] == {"trainer-0": [[1, 5], [9, None]]}
    assert carried["selector"]["file"] is None
    assert carried["selector"]["unlisted"] is True


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"job": {"simulatedTime": {"trace": "gone.csv"}}}, "job.simulatedTime.trace"),
        ({"selector": {"_target_": "roles.selectors.trace.Trace", "file": "gone.csv"}}, "selector.file"),
    ],
)
def test_a_file_that_went_since_the_plan_is_a_problem_with_its_place(
    changes: dict[str, Any], place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidConfig) as caught:
        carry(config(**changes))
    assert [problem.place for problem in caught.value.problems] == [place]
