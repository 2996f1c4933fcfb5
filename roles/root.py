"""The root's keeping of the global model: rounds, server step, evaluation, checkpoints, the early end, the result."""

import copy
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import torch

from roles import state as states
from roles.checkpoints import Checkpoints
from roles.context import Context
from roles.errors import BadModel
from roles.fit import build_seeded
from roles.keep import Stateful
from roles.kinds import PHASE, SURVEY, VIRTUAL_TIME
from roles.memory import give_back
from roles.part import About, Gathered, State
from roles.review import Review
from roles.rounds.average import WEIGHTS, WeightedSum
from roles.rounds.choice import remembers
from transports.message import Message, Scalar, Specs

log = logging.getLogger(__name__)
MODEL_KIND = "weights"


class Root:
    """The global model and everything that happens to it between rounds.

    Evaluating and storing the model of a round run in a thread beside the next round, unless an early end may
    depend on the result, or the test data comes from processes of its own.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.settings = context.settings
        self._allocate: Callable[[str, int, Specs], Message] = Message.allocate
        self.module = build_seeded(context)
        if self.settings.base_model is not None:
            self.module.load_state_dict(torch.load(self.settings.base_model, weights_only=True))
        self._parts: dict[str, Stateful] = {}
        self._closed: dict[str, Any] = {}
        """States as they were when the last round closed, of those who take part in the next one while they are stored."""
        self._past: dict[str, Any] = {}
        self._files = Checkpoints(context.folder, self.settings.checkpoint.keep)
        self._reviewer = Review(context, self.module, self._files)
        # A process forked beside other threads can inherit a lock that nobody will ever release.
        self._overlap = context.overlap and not self._reviewer.forks
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="review")
        self._pending: Future[None] | None = None
        self._due = False
        self._round = 0
        self._samples = 0
        self._surveyed = 0
        """The newest round whose survey is over."""
        self._round_seconds: list[float] = []
        self._began: float | None = None
        self._seconds_before = 0.0
        self._virtual_time = 0.0
        if context.resume:
            self._load()
        groups: dict[str, State] = {**states.shared_state(self.module, self.settings.share)}
        self._begin_parts(groups[WEIGHTS])
        groups |= self._further()
        self._adopts = states.adoptable(self.module)
        """Whether the module lies in the memory of the model, instead of a copy: it does unless it would write there."""
        self.model = Message(
            kind=MODEL_KIND, round=self._round, groups={name: group for name, group in groups.items() if group}
        ).packed()
        del groups
        self._adopt()
        give_back()

    def _begin_parts(self, start: State) -> None:
        """Tell selector, strategy and so on of the job; those with a state get it back."""
        self._parameters = parameters = frozenset(dict(self.module.named_parameters(remove_duplicate=False))) & start.keys()
        about = About(
            # Shapes and types: a copy would be held as long as the job lasts.
            start={name: value.detach().to("meta") for name, value in start.items()},
            parameters=parameters,
            population=self.context.population,
            seed=self.settings.seed,
        )
        for name, part in zip(("strategy", "selector", "sampler", "privacy"), self.context.parts, strict=True):
            part.begin(about)
            if name == "strategy" or remembers(part):
                self.register(name, part)

    def _further(self) -> dict[str, State]:
        """What the strategy sends with the weights."""
        return self.context.strategy.down()

    def move(self, allocate: Callable[[str, int, Specs], Message]) -> None:
        """Keep the model, and those that follow, in memory of `allocate`: from there it can be sent without a copy."""
        self._allocate = allocate
        self.model = self.model.packed(into=allocate(MODEL_KIND, self._round, self.model.specs).payload)
        self._adopt()
        give_back()

    def adopt(self, model: Message) -> None:
        """Go on from a packed `model` that was made elsewhere meanwhile, with its round. Call it before the first round."""
        self.model = model.relabel(kind=MODEL_KIND, scalars={})
        self._round = model.round
        self._adopt()
        self._due = True

    def allocate_sum(self, kind: str, round: int, specs: Specs) -> Message:
        """Memory for the sum of a round: that of the next model where the types are the same, so that it becomes the model."""
        model = self.model.specs
        if all(model.get(group) == entries for group, entries in specs.items()):
            return self._allocate(kind, round, model)
        return Message.allocate(kind, round, specs)

    def _adopt(self) -> None:
        if self._adopts:
            states.adopt(self.module, self.model)

    def register(self, name: str, part: Stateful) -> None:
        """Keep the state of `part` in the checkpoints, and give it the state that it had; call it before the first round.

        Raises:
            ValueError: the name is taken.
            BadModel: the checkpoint that the job goes on from has no state of that name.
        """
        if name in self._parts:
            raise ValueError(f"{name!r} is registered already")
        self._parts[name] = part
        if self._round and name not in self._past:
            raise BadModel(f"the checkpoint of round {self._round} has no state of {name!r}, only of {sorted(self._past)}")
        if self._round:
            part.load_state_dict(self._past[name])

    @property
    def over(self) -> bool:
        """Whether no round is left to do."""
        return self._round >= self.settings.rounds or self._reviewer.stop_reason is not None

    def next_round(self) -> int | None:
        """The number of the next round, or None when the job is done: all rounds, target reached, or patience lost."""
        if self._began is None:
            self._began = time.monotonic()
        elif self.settings.stop.active or not self._overlap:
            self.review(wait=True)
        if self.over:
            return None
        round = self._round + 1
        surveys = self.context.strategy.traits.surveys and self._surveyed != round
        scalars: dict[str, Scalar] = {name: value for part in self.context.parts for name, value in part.told(round).items()}
        scalars |= {PHASE: SURVEY} if surveys else {}
        scalars |= {} if self.settings.simulated is None else {VIRTUAL_TIME: self._virtual_time}
        self.model = self.model.relabel(round=round, scalars=scalars)
        return round

    def surveyed(self, round: int, total: WeightedSum) -> None:
        """The survey of the round is over."""
        self._surveyed = round
        self.context.strategy.surveyed(_gathered(total, {}), round)

    def close(self, round: int, total: WeightedSum, seconds: float, *, now: float | None = None) -> None:
        """Take the step of the round; evaluation and storing follow in `review`. `now`: of the virtual clock."""
        self.review(wait=True)
        current = self.model.groups[WEIGHTS]
        gathered = self._gathered(total)
        for part in self.context.parts[1:]:
            gathered = part.closed(gathered, round)
        stepped = self.context.strategy.step(current, gathered, round)
        same = total.memory.specs == self.model.specs
        following = total.memory if same else self._allocate(MODEL_KIND, round, self.model.specs)
        further = {states.FROZEN: self.model.groups.get(states.FROZEN, {}), **self._further()}
        for group, tensors in {WEIGHTS: stepped, **further}.items():
            for name, value in tensors.items():
                target = following.groups[group][name]
                if value.data_ptr() != target.data_ptr():
                    target.copy_(value)
        self.model = following.relabel(kind=MODEL_KIND, round=round, scalars={})
        self._adopt()
        self._round = round
        self._samples = total.samples
        self._round_seconds.append(seconds)
        values = {name: value for part in self.context.parts for name, value in part.metrics().items()}
        if now is not None:
            self._virtual_time = values["virtual_seconds"] = now
        values |= {"round_seconds": seconds, "updates": total.count, "samples": total.samples}
        self.context.reporter.metrics(round, values)
        kept = {name: self._parts[name] for name in ("selector", "sampler", "privacy") if name in self._parts}
        self._closed = {name: copy.deepcopy(part.state_dict()) for name, part in kept.items()}
        self._due = True

    def _gathered(self, total: WeightedSum) -> Gathered:
        """The means of a round; entries of which nobody had anything to say stay as they are."""
        means, differences = total.means(), self.context.strategy.traits.differences
        for name, value in self.model.groups[WEIGHTS].items():
            if name not in means[WEIGHTS]:
                missing = differences and name in self._parameters
                means[WEIGHTS][name] = torch.zeros_like(value) if missing else value.clone()
        return _gathered(total, means)

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
        state = self.module.state_dict()
        path = self._files.save_last(state)
        self.context.reporter.result(
            {
                "metrics": self._reviewer.metrics,
                "best": self._reviewer.best,
                "model": path,
                "model_sha256": states.model_sha256(state),
                "rounds": self._round,
                "round_seconds": self._round_seconds,
                "samples": self._samples,
                "training_seconds": self._seconds(),
                "stopped": self._reviewer.stop_reason,
            }
        )

    def _review(self, round: int, model: Message) -> None:
        if not self._adopts:
            states.load_shared(self.module, states.of_module(model.groups))
        self._reviewer.take(round, read_only=self._adopts)
        if self.settings.checkpoint.every and round % self.settings.checkpoint.every == 0:
            self._checkpoint(round)

    def _checkpoint(self, round: int) -> None:
        """Write what a resumed job needs."""
        if not self._files.stored:
            return
        began = time.monotonic()
        content = {
            "round": round,
            "seed": self.settings.seed,
            "model": self.module.state_dict(),
            "parts": {name: part.state_dict() for name, part in self._parts.items()} | self._closed,
            **self._reviewer.state_dict(),
            "samples": self._samples,
            "round_seconds": self._round_seconds,
            "training_seconds": self._seconds(),
            "virtual_time": self._virtual_time,
        }
        self._files.save(round, content)
        self.context.reporter.metrics(round, {"checkpoint_seconds": time.monotonic() - began})

    def _load(self) -> None:
        """Go on from the newest whole checkpoint; without one, from the start.

        Raises:
            BadModel: it is of another job.
        """
        found = self._files.newest()
        if found is None:
            self._files.restore_best(None)
            log.warning("there is no whole checkpoint in %s: starting from round 1", self.context.folder)
            return
        path, content = found
        if content["seed"] != self.settings.seed:
            raise BadModel(f"{path} is of a job with job.seed={content['seed']}, not {self.settings.seed}")
        try:
            self.module.load_state_dict(content["model"])
        except RuntimeError as error:
            raise BadModel(f"{path} does not fit {type(self.module).__name__}: {error}") from error
        self._past = content["parts"]
        self._reviewer.load_state_dict(content)
        self._round, self._samples, self._virtual_time = content["round"], content["samples"], content["virtual_time"]
        self._round_seconds, self._seconds_before = list(content["round_seconds"]), content["training_seconds"]
        # The last round of a job is evaluated; it may not have been the last one when it was done.
        self._due = self._round >= self.settings.rounds and not self._reviewer.metrics
        log.info("going on after round %d, from %s", self._round, path)

    def _seconds(self) -> float:
        """Seconds from the start of the first round until now, without the time between two parts of the job."""
        return self._seconds_before + (0.0 if self._began is None else time.monotonic() - self._began)


def _gathered(total: WeightedSum, groups: Mapping[str, State]) -> Gathered:
    made = partial(Gathered, weight=total.total, samples=total.samples, count=total.updates)
    return made(groups=groups, sums=total.sums, singles=total.singles)
