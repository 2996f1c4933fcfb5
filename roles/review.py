"""What is thought of the global model: its tests, the best one so far, the early end."""

import time
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule

from roles import state as states
from roles.checkpoints import Checkpoints
from roles.context import Context
from roles.errors import BadModel
from roles.fit import Evaluation
from roles.judge import Judge


class Review:
    """Tests the module of a root and remembers what came out.

    Args:
        context: of the root.
        module: what is tested.
        files: where the best model is stored.
    """

    def __init__(self, context: Context, module: LightningModule, files: Checkpoints) -> None:
        self.metrics: dict[str, float] = {}
        """Those of the newest model; none where it was not tested."""
        self.best: dict[str, Any] = {}
        """Round, metrics, path and hash of the best model."""
        self._context = context
        self._module = module
        self._files = files
        self._judge = Judge(context.settings.stop, context.settings.checkpoint)
        self._evaluation = None if context.build_test_data is None else Evaluation(context, module, context.build_test_data())
        if files.stored and self._evaluation is not None:
            files.save_example(self._evaluation.example())

    @property
    def forks(self) -> bool:
        """Whether testing starts processes."""
        return self._evaluation is not None and self._evaluation.forks

    @property
    def stop_reason(self) -> str | None:
        """Why the job ends early; None while it does not."""
        return self._judge.stop_reason

    def take(self, round: int, *, read_only: bool) -> None:
        """Test the model of `round` if it is due. `read_only`: nothing may write to the module's parameters meanwhile.

        Raises:
            BadModel: something did, or the module logs nothing to judge it by.
        """
        settings = self._context.settings
        due = round >= settings.rounds or (settings.evaluate_every and round % settings.evaluate_every == 0)
        if self._evaluation is None or not due:
            self.metrics = {}
            return
        began, before = time.monotonic(), self._versions()
        self.metrics = self._evaluation.test(round)
        if read_only and (changed := [name for name, version in self._versions().items() if version != before[name]]):
            raise BadModel(f"{type(self._module).__name__} writes to its parameters while it is tested: {changed[:5]}")
        self._context.reporter.metrics(round, {**self.metrics, "evaluate_seconds": time.monotonic() - began})
        if self._judge.better(self.metrics):
            state = self._module.state_dict()
            path = self._files.save_best(round, state)
            self.best = {"round": round, "metrics": self.metrics, "model": path, "model_sha256": states.model_sha256(state)}

    def _versions(self) -> dict[str, int]:
        """How often each parameter was written to."""
        return {name: parameter._version for name, parameter in self._module.named_parameters()}  # noqa: SLF001 - no other way

    def state_dict(self) -> dict[str, Any]:
        """What a resumed job needs."""
        return {"judge": self._judge.state_dict(), "metrics": self.metrics, "best": self.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave; the best model is again what it was then."""
        self._judge.load_state_dict(state["judge"])
        self.metrics, self.best = state["metrics"], dict(state["best"])
        path = self._files.restore_best(self.best.get("round"))
        if self.best:
            self.best["model"] = path
