"""The summary of a run, `summary.json`, from what the supervisor saw and what the roots reported.

A root reports `{"metrics": {name: value}, "best": {"round", "metrics", "model", "model_sha256"}, "model": path,
"model_sha256": hex, "rounds": n, "round_seconds": [seconds], "samples": n, "training_seconds": seconds}`;
keys may be missing where a job ended early.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from flame_run.run.folder import RunFolder, write_atomically
from flame_run.run.records import dumps
from flame_run.run.rewind import Resumed

Result = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a job ended, apart from what its roots learnt."""

    status: str
    """`completed`, `failed` or `terminated`."""
    workers: Mapping[str, str]
    """Worker -> its last state, in the order of the plan."""
    total_seconds: float
    startup_seconds: float | None
    """To the first round; None if there was none."""
    training_seconds: float | None
    """From the first round to the end of the last worker; the roots' own measure goes before it."""
    rounds: int = 0
    """Rounds that were finished, where no root reported it."""
    error: str | None = None
    results: Mapping[str, Result] = field(default_factory=dict)
    """Root -> its result, in the order of the plan."""


def build_summary(outcome: Outcome, models: Path, resumed: Resumed | None = None) -> dict[str, Any]:
    """Return the content of `summary.json`.

    With a single root, the values at the top are its own. With several: metrics are means weighted by the roots'
    `samples` over the roots that report them; of each round the slowest root counts; `model_sha256` is
    `combined_hash`; `model` is the folder of the models; `best` holds the same of each root's best, and its `round`
    is null, as each root has its own.

    Args:
        outcome: how the job ended.
        models: the folder of the models.
        resumed: what was done before, of a run that went on.
    """
    done, seconds = (0, 0.0) if resumed is None else (resumed.done, resumed.seconds)
    roots = list(outcome.results.values())
    top = dict(roots[0]) if len(roots) == 1 else _combine(roots, str(models))
    return {
        "status": outcome.status,
        "rounds": top.get("rounds", max(done, outcome.rounds)),
        "metrics": top.get("metrics", {}),
        "best": top.get("best", {}),
        "model": top.get("model"),
        "model_sha256": top.get("model_sha256"),
        "workers": dict(outcome.workers),
        "seconds": {
            "total": seconds + outcome.total_seconds,
            "startup": outcome.startup_seconds,
            "training": top.get("training_seconds", outcome.training_seconds),
        },
        "round_seconds": top.get("round_seconds", []),
        "roots": {worker: _root(result) for worker, result in outcome.results.items()},
        "error": outcome.error,
    }


def write_summary(summary: Mapping[str, Any], path: Path) -> None:
    """Write `summary.json` atomically; an old one is replaced."""
    write_atomically(path, dumps(summary, indent=2) + "\n")


def combined_hash(hashes: Iterable[str]) -> str:
    """Return the SHA-256, in hex, of the sorted hex hashes, each followed by a newline."""
    return hashlib.sha256("".join(f"{value}\n" for value in sorted(hashes)).encode()).hexdigest()


def failure_text(error: str, workers: Sequence[str], folder: RunFolder) -> str:
    """`error` with the log of each of `workers` and its last lines."""
    parts = [error]
    for worker in workers:
        lines = folder.log_tail(worker)
        if lines:
            parts.append(f"the end of {folder.worker_log(worker)}:\n" + "\n".join(f"  {line}" for line in lines))
        else:
            parts.append(f"{worker} has written no log ({folder.worker_log(worker)})")
    return "\n".join(parts)


def _root(result: Result) -> dict[str, Any]:
    keys = ("metrics", "best", "model", "model_sha256", "rounds", "round_seconds", "stopped")
    return {key: result.get(key) for key in keys}


def _combine(roots: Sequence[Result], models: str) -> dict[str, Any]:
    if not roots:
        return {}
    top = _models(roots, roots, models)
    bests = [root.get("best") or {} for root in roots]
    if any(bests):
        top["best"] = {"round": None, **_models(bests, roots, models)}
    times = [root.get("round_seconds", []) for root in roots]
    top["round_seconds"] = [max(row) for row in zip_longest(*times, fillvalue=0.0)]
    top["rounds"] = max(root.get("rounds", 0) for root in roots)
    seconds = [root["training_seconds"] for root in roots if "training_seconds" in root]
    if seconds:
        top["training_seconds"] = max(seconds)
    return top


def _models(parts: Sequence[Result], roots: Sequence[Result], models: str) -> dict[str, Any]:
    hashes = [part.get("model_sha256") for part in parts]
    whole = all(value is not None for value in hashes)
    return {
        "metrics": _weighted([(part.get("metrics", {}), root.get("samples", 0)) for part, root in zip(parts, roots, strict=True)]),
        "model": models if whole else None,
        "model_sha256": combined_hash(str(value) for value in hashes) if whole else None,
    }


def _weighted(parts: Sequence[tuple[Mapping[str, float], float]]) -> dict[str, float]:
    names = dict.fromkeys(name for metrics, _ in parts for name in metrics)
    means = {}
    for name in names:
        having = [(metrics[name], weight) for metrics, weight in parts if name in metrics]
        # Roots that report no samples count alike.
        weights = [weight for _, weight in having] if any(weight for _, weight in having) else [1.0] * len(having)
        means[name] = sum(value * weight for (value, _), weight in zip(having, weights, strict=True)) / sum(weights)
    return means
