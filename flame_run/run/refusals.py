"""How many strangers and broken messages a job has refused: for `summary.json`, and for a person at the end."""

from collections import Counter
from collections.abc import Mapping
from math import isfinite
from typing import Any

from flame_run.control.events import MetricsReported

METRIC = "refused_peers"
"""What a worker reports at its end, if it is not 0: connections and messages that its endpoint refused."""


class Refusals:
    """Collects what the workers report of refusals."""

    def __init__(self) -> None:
        self._workers: Counter[str] = Counter()

    def note(self, event: object) -> None:
        """Take an event of the job; only reports of `METRIC` matter."""
        if isinstance(event, MetricsReported) and isfinite(value := event.values.get(METRIC, 0.0)) and value >= 1:
            self._workers[event.worker] += int(value)

    def content(self, controller: Mapping[str, int]) -> dict[str, Any]:
        """`security` of `summary.json`: refusals of the controller by kind, and of the workers that had any."""
        return {"refused": {"controller": dict(sorted(controller.items())), "workers": dict(sorted(self._workers.items()))}}

    def text(self, controller: Mapping[str, int]) -> str | None:
        """One line for a person; None if nothing was refused."""
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(controller.items()))
        parts = [f"the controller {sum(controller.values())} times ({kinds})"] if controller else []
        parts += [f"{worker} {count} times" for worker, count in sorted(self._workers.items())]
        return f"refused connections or messages: {', '.join(parts)}; run.log and the workers' logs say whose" if parts else None
