"""The root's keeping of the global model: rounds, server step, evaluation, checkpoints, the early end, the result."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from roles import state as states
from roles.average import WEIGHTS, WeightedSum
from roles.context import Context
from roles.errors import BadModel
from roles.fit import Evaluation, build_seeded
from roles.judge import Judge
from transports.message import Message, Specs

MODEL_KIND = "weights"


class Root:
    """The global model and everything that happens to it between rounds.

    Evaluating and storing the model of a round run in a thread beside the next round, unless an early end may
    depend on the result, or the test data comes from processes of its own.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.settings = context.settings
        self.allocate: Callable[[str, int, Specs], Message] = Message.allocate
        """Makes the message of the next model, of a kind, a round and types: in memory from which it can be sent at once."""
        self.module = build_seeded(context)
        if self.settings.base_model is not None:
            self.module.load_state_dict(torch.load(self.settings.base_model, weights_only=True))
        groups = states.shared_state(self.module, self.settings.share)
        self.model = Message(kind=MODEL_KIND, round=0, groups={name: group for name, group in groups.items() if group}).packed()
        self._evaluation = None if context.build_test_data is None else Evaluation(context, self.module, context.build_test_data())
        # A process forked beside other threads can inherit a lock that nobody will ever release.
        self._overlap = context.overlap and not (self._evaluation is not None and self._evaluation.forks)
        self._judge = Judge(self.settings.stop, self.settings.checkpoint)
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="review")
        self._pending: Future[None] | None = None
        self._due = False
        self._round = 0
        self._samples = 0
        self._round_seconds: list[float] = []
        self._began = 0.0
        self._metrics: dict[str, float] = {}
        self._best: dict[str, Any] = {}
        if context.folder is not None and self._evaluation is not None:
            states.save_atomically(self._evaluation.example(), context.folder / "example.pt")

    def next_round(self) -> int | None:
        """The number of the next round, or None when the job is done: all rounds, target reached, or patience lost."""
        if self._round == 0:
            self._began = time.monotonic()
        elif self.settings.stop.active or not self._overlap:
            self.review(wait=True)
        if self._round >= self.settings.rounds or self._judge.stop_reason is not None:
            return None
        self.model = self.model.relabel(round=self._round + 1)
        return self._round + 1

    def close(self, round: int, total: WeightedSum, seconds: float) -> None:
        """Take the step of the round; evaluation and storing follow in `review`."""
        self.review(wait=True)
        current = self.model.groups[WEIGHTS]
        stepped = self.context.strategy.step(current, total.mean(), round)
        following = self.allocate(MODEL_KIND, round, self.model.specs)
        for name, value in stepped.items():
            following.groups[WEIGHTS][name].copy_(value)
        for name, value in self.model.groups.get(states.FROZEN, {}).items():
            following.groups[states.FROZEN][name].copy_(value)
        self.model = following
        self._round = round
        self._samples = total.samples
        self._round_seconds.append(seconds)
        self.context.reporter.metrics(round, {"round_seconds": seconds, "updates": total.count, "samples": total.samples})
        self._due = True

    def review(self, *, wait: bool = False) -> None:
        """Evaluate and store the newest model in the background, once; with `wait`, return when that is done."""
        due, self._due = self._due, False
        if due and not self._overlap:
            self._review(self._round, self.model)
        elif due:
            self._pending = self._beside.submit(self._review, self._round, self.model)
        if wait and self._pending is not None:
            self._pending.result()
            self._pending = None

    def end(self) -> None:
        """Finish the review of the last round, store the last model, report the result."""
        self.review(wait=True)
        self._beside.shutdown()
        seconds = time.monotonic() - self._began
        state = self.module.state_dict()
        path = self._store("last.pt", state)
        self.context.reporter.result(
            {
                "metrics": self._metrics,
                "best": self._best,
                "model": path,
                "model_sha256": states.model_sha256(state),
                "rounds": self._round,
                "round_seconds": self._round_seconds,
                "samples": self._samples,
                "training_seconds": seconds,
                "stopped": self._judge.stop_reason,
            }
        )

    def _review(self, round: int, model: Message) -> None:
        states.load_shared(self.module, model.groups)
        every, last = self.settings.evaluate_every, round >= self.settings.rounds
        if self._evaluation is not None and (last or (every and round % every == 0)):
            self._evaluate(round)
        else:
            self._metrics = {}
        if self.settings.checkpoint.every and round % self.settings.checkpoint.every == 0:
            self._checkpoint(round)

    def _evaluate(self, round: int) -> None:
        if self._evaluation is None:
            raise BadModel("there is no data to evaluate on")
        began = time.monotonic()
        self._metrics = self._evaluation.test(round)
        self.context.reporter.metrics(round, {**self._metrics, "evaluate_seconds": time.monotonic() - began})
        if self._judge.better(self._metrics):
            state = self.module.state_dict()
            path = self._store("best.pt", state)
            self._best = {"round": round, "metrics": self._metrics, "model": path, "model_sha256": states.model_sha256(state)}

    def _checkpoint(self, round: int) -> None:
        """Write what a resumed job needs, and drop all but the newest `keep`."""
        folder = self.context.folder
        if folder is None:
            return
        began = time.monotonic()
        content = {
            "round": round,
            "seed": self.settings.seed,
            "model": self.module.state_dict(),
            "strategy": self.context.strategy.state_dict(),
            "judge": self._judge.state_dict(),
            "metrics": self._metrics,
            "best": self._best,
            "round_seconds": self._round_seconds,
        }
        states.save_atomically(content, folder / f"round-{round:05d}.pt")
        for old in sorted(folder.glob("round-*.pt"))[: -self.settings.checkpoint.keep]:
            old.unlink()
        self.context.reporter.metrics(round, {"checkpoint_seconds": time.monotonic() - began})

    def _store(self, name: str, state: Mapping[str, Tensor]) -> str | None:
        folder = self.context.folder
        if folder is None:
            return None
        path: Path = folder / name
        states.save_atomically(dict(state), path)
        return str(path)
