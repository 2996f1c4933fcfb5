"""Which model is the best so far, and whether the job may end early. No I/O."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from roles.errors import BadModel
from roles.settings import Checkpoint, Stop


class Judge:
    """Follows the evaluations of one global model."""

    def __init__(self, stop: Stop, checkpoint: Checkpoint) -> None:
        self._stop = stop
        self._metric = checkpoint.metric
        self._mode = checkpoint.mode
        self._best: float | None = None
        self._stop_best: float | None = None
        self._stale = 0
        self.stop_reason: str | None = None
        """Why the job ends before its last round; None while it goes on."""

    def better(self, metrics: Mapping[str, float]) -> bool:
        """Take in one evaluation; whether it is the best so far (the earlier one wins a tie).

        Raises:
            BadModel: a metric that the configuration names is not logged.
        """
        self._follow(metrics)
        metric = self._metric or next((name for name in ("accuracy", "loss") if name in metrics), None)
        if metric is None:
            return True  # nothing to compare by: the newest counts
        value = _value(metrics, metric, "checkpoint.metric")
        if not _improves(value, self._best, self._mode or ("min" if metric.endswith("loss") else "max")):
            return False
        self._best = value
        return True

    def state_dict(self) -> dict[str, Any]:
        """What a resumed job needs."""
        return {
            "best": self._best,
            "by": [self._metric, self._mode],
            "stop_best": self._stop_best,
            "stale": self._stale,
            "stop_reason": self.stop_reason,
            "stop": asdict(self._stop),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave, as far as the same is asked for: another rule to stop or to compare begins anew."""
        if state["by"] == [self._metric, self._mode]:
            self._best = state["best"]
        if state["stop"] == asdict(self._stop):
            self._stop_best, self._stale, self.stop_reason = state["stop_best"], state["stale"], state["stop_reason"]

    def _follow(self, metrics: Mapping[str, float]) -> None:
        stop = self._stop
        if not stop.active:
            return
        value = _value(metrics, stop.metric, "job.stop.metric")
        if stop.target is not None and (value >= stop.target if stop.mode == "max" else value <= stop.target):
            self.stop_reason = f"{stop.metric} {value:.6g} reached the target {stop.target:g}"
        if _improves(value, self._stop_best, stop.mode):
            self._stop_best, self._stale = value, 0
            return
        self._stale += 1
        if stop.patience is not None and self._stale >= stop.patience and self.stop_reason is None:
            self.stop_reason = f"{stop.metric} has not improved for {self._stale} evaluations"


def _value(metrics: Mapping[str, float], name: str, key: str) -> float:
    if name not in metrics:
        raise BadModel(f"{key} = {name!r}: the module logs no such metric in test_step; it logs {sorted(metrics)}")
    return metrics[name]


def _improves(value: float, best: float | None, mode: str) -> bool:
    if best is None or math.isnan(best):
        return best is None or not math.isnan(value)
    return value > best if mode == "max" else value < best
