import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.errors import BadModel
from roles.judge import Judge
from roles.settings import Checkpoint, Stop


def bests(values: list[float], metric: str = "accuracy", checkpoint: Checkpoint | None = None) -> list[bool]:
    judge = Judge(Stop(), checkpoint or Checkpoint())
    return [judge.better({metric: value}) for value in values]


def test_more_accuracy_and_less_loss_are_better_and_the_earlier_wins_a_tie() -> None:
    assert bests([0.5, 0.5, 0.7, 0.6]) == [True, False, True, False]
    assert bests([0.5, 0.5, 0.7, 0.4], "loss") == [True, False, False, True]
    assert bests([0.5, 0.7, 0.4], "val_loss", Checkpoint(metric="val_loss")) == [True, False, True]
    assert bests([0.5, 0.7, 0.4], "error", Checkpoint(metric="error", mode="min")) == [True, False, True]


def test_accuracy_goes_before_loss_where_nothing_is_said() -> None:
    judge = Judge(Stop(), Checkpoint())
    assert judge.better({"loss": 1.0, "accuracy": 0.5})
    assert not judge.better({"loss": 0.1, "accuracy": 0.4})


def test_the_newest_is_the_best_where_there_is_nothing_to_compare_by() -> None:
    assert bests([3.0, 1.0, 2.0], "perplexity") == [True, True, True]


def test_a_model_whose_metric_is_not_a_number_never_stays_the_best() -> None:
    assert bests([math.nan, math.nan, 0.1, math.nan, 0.2]) == [True, False, True, False, True]


@given(st.lists(st.floats(0, 1), min_size=1))
def test_the_last_best_is_the_first_largest(values: list[float]) -> None:
    marks = bests(values)
    assert max(index for index, mark in enumerate(marks) if mark) == values.index(max(values))


def rounds_until_stop(stop: Stop, values: list[float]) -> tuple[int, str | None]:
    judge = Judge(stop, Checkpoint())
    for count, value in enumerate(values, start=1):
        judge.better({stop.metric: value})
        if judge.stop_reason is not None:
            return count, judge.stop_reason
    return len(values), None


def test_the_target_ends_the_job() -> None:
    stop = Stop(target=0.9)
    assert rounds_until_stop(stop, [0.5, 0.89, 0.9, 0.95]) == (3, "accuracy 0.9 reached the target 0.9")
    assert rounds_until_stop(Stop(metric="loss", mode="min", target=0.1), [1.0, 0.05]) == (2, "loss 0.05 reached the target 0.1")
    assert rounds_until_stop(stop, [0.5, math.nan]) == (2, None)


def test_patience_counts_evaluations_without_a_better_value() -> None:
    stop = Stop(patience=2)
    assert rounds_until_stop(stop, [0.5, 0.5, 0.6, 0.6, 0.55]) == (5, "accuracy has not improved for 2 evaluations")
    assert rounds_until_stop(stop, [0.1, 0.1, 0.2, 0.1, 0.3]) == (5, None)


def test_metrics_that_are_no_numbers_use_up_the_patience() -> None:
    assert rounds_until_stop(Stop(metric="loss", mode="min", patience=2), [math.nan] * 5)[0] == 3
    assert rounds_until_stop(Stop(patience=2), [0.5, math.nan, math.nan, math.nan])[0] == 3


def test_a_judge_without_a_rule_never_stops() -> None:
    assert rounds_until_stop(Stop(), [0.1] * 20) == (20, None)


@pytest.mark.parametrize(
    ("stop", "checkpoint", "key"),
    [(Stop(metric="f1", target=1.0), Checkpoint(), "job.stop.metric"), (Stop(), Checkpoint(metric="f1"), "checkpoint.metric")],
)
def test_a_metric_that_is_not_logged_is_named_with_those_that_are(stop: Stop, checkpoint: Checkpoint, key: str) -> None:
    with pytest.raises(BadModel, match=rf"{key} = 'f1': .*\['accuracy', 'loss'\]"):
        Judge(stop, checkpoint).better({"loss": 1.0, "accuracy": 0.5})


@given(values=st.lists(st.floats(0, 1), min_size=2, max_size=8), cut=st.integers(1, 7))
def test_a_judge_goes_on_from_its_saved_state(values: list[float], cut: int) -> None:
    stop = Stop(patience=2, target=0.99)
    whole, first, second = (Judge(stop, Checkpoint()) for _ in range(3))
    marks = [whole.better({"accuracy": value}) for value in values]
    head = [first.better({"accuracy": value}) for value in values[:cut]]
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert head + [second.better({"accuracy": value}) for value in values[cut:]] == marks
    assert second.stop_reason == whole.stop_reason
