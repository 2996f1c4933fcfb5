"""The two halves of whatever makes a job more than plain averaging: an algorithm, a selector, a sampler, a privacy preset.

The server half (`Part`) lives at aggregators. The client half (`Client`) is a Lightning callback that lives with a trainer.
Neither knows of channels, rounds in flight or processes; what they say to each other travels with models and updates.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lightning.pytorch import Callback, LightningDataModule, LightningModule
from torch import Tensor, nn

from roles.catalogue import PLAIN, Traits
from transports.message import Message, Scalar

State = Mapping[str, Tensor]
"""Name -> tensor: the averaged part of a `state_dict`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a server half is told before the first round."""

    start: State
    """The averaged entries of the global model, as meta tensors: their shapes and dtypes, no values."""
    parameters: frozenset[str]
    """Which of them are optimised. The others are buffers: the mean of theirs is their next value."""
    population: int
    """How many data consumers the aggregator has below it, directly or not."""
    seed: int
    """The job's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one update said that was added to the sum of a round."""

    end: str
    round: int
    """Of the model that it was made from."""
    scalars: Mapping[str, Scalar]
    samples: int
    seconds: float
    """From the model's handing out to the update's arrival, of the clock that the job runs by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Single:
    """One update of a round by itself."""

    groups: Mapping[str, State]
    """Group -> name -> tensor, in at least float32; `weights` are weights, or differences where the strategy's updates are."""
    weight: float
    """n_i, above 0; in asynchronous rounds times what its staleness leaves of it."""
    samples: int
    scalars: Mapping[str, Scalar]
    """What the update said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """The updates of a round, folded: weighted means of tensors, sums of numbers."""

    groups: Mapping[str, State]
    """Group -> name -> sum(n_i * x_i) / sum(n_i), in at least float32; `weights` and what else the strategy exchanges.
    Uses the memory of the sum: a strategy may write its result there."""
    sums: Mapping[str, float] = field(default_factory=dict)
    """Name -> sum of what the updates said, for the names in `Part.sums`; not weighted."""
    weight: float
    """sum(n_i), above 0."""
    samples: int
    count: int
    """Updates of data consumers in it, through any number of levels."""
    singles: Sequence[Single] = ()
    """The updates one by one, in the order of the plan (of arrival where rounds are asynchronous or eager), for a strategy that
    `needs_all_updates`; nothing for others. A strategy may write to them."""

    @property
    def mean(self) -> State:
        """The weighted mean of the weights, or of the differences of parameters where the strategy's updates are differences."""
        return self.groups["weights"]


@dataclass(slots=True, kw_only=True)
class Update:
    """What a trainer is about to hand up; client halves change it in place, one after the other."""

    round: int
    weights: dict[str, Tensor]
    """The module's own tensors: replace an entry, never write to it."""
    groups: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """Further groups, of the types that `Strategy.up_specs` names."""
    weight: float
    """n_i: what the update counts for in every mean, above 0."""
    samples: int
    scalars: dict[str, Scalar] = field(default_factory=dict)
    """Numbers for `Part.sums` and `Part.heard`."""
    effort: float = 1.0
    """Which part of a whole round's training was done, above 0: what a virtual clock counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """What a client half works with."""

    worker: str
    module: LightningModule
    data: LightningDataModule
    parameters: Mapping[str, nn.Parameter]
    """Those that are exchanged and trained, by their names in the `state_dict`."""
    samples: int
    seed: int
    """The job's."""
    epochs: int
    compute: Callable[[int], float] | None = None
    """Where a virtual clock runs: round -> seconds that training on all samples takes by it."""


class Client(Callback):
    """The client half: a Lightning callback that also sees the model come and the update go.

    What it remembers from round to round it returns from `state_dict()` (tensors, numbers, texts and containers of them); it
    is stored with the worker and survives a restart.
    """

    def begin(self, local: Local) -> None:
        """Once, before the first round."""

    def receive(self, local: Local, model: Message) -> None:
        """A model came and is loaded; its tensors stay as they are until the update is handed up."""

    def loader_data(self, local: Local, round: int) -> LightningDataModule:  # noqa: ARG002 - for those that choose samples
        """The data of the round: `local.data`, or a view of it."""
        return local.data

    def answer(self, local: Local, model: Message) -> Mapping[str, float]:  # noqa: ARG002 - for those that survey
        """The answer to a survey: numbers for `Part.sums`. Only called where the strategy surveys."""
        return {}

    def finish(self, local: Local, update: Update) -> None:
        """The module is trained, and `update` was made of it."""

    def refused(self, local: Local) -> None:
        """The update of the last `finish` did not count, and never will: what was remembered for it is to be forgotten."""


class Part:
    """The server half. An aggregator calls these; all but the root's root-only ones may be called at middle aggregators too."""

    traits: ClassVar[Traits] = PLAIN
    sums: ClassVar[tuple[str, ...]] = ()
    """Names of the numbers in updates that are added up over all data consumers. Each update must hold them, finite."""

    def begin(self, about: About) -> None:
        """Once, before the first round and before `load_state_dict`."""

    def told(self, round: int) -> Mapping[str, Scalar]:  # noqa: ARG002 - for those that have something to say
        """Scalars that go down with the model of `round`, through all levels. Asked at the root."""
        return {}

    def heard(self, report: Report) -> None:
        """An update of an end that is a data consumer was added. In the order of the plan, or of arrival in asynchronous rounds."""

    def missed(self, end: str, round: int, reason: str) -> None:
        """A data consumer that was asked in `round` has no update in it."""

    def closed(self, gathered: Gathered, round: int) -> Gathered:  # noqa: ARG002 - for those that change it
        """What the strategy gets instead of `gathered`, at the root. Runs before `Strategy.step`."""
        return gathered

    def metrics(self) -> Mapping[str, float]:
        """Named values of the round just closed, at the root."""
        return {}

    def client(self) -> Client | None:
        """A new client half; None where there is none."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """What the next round needs of the last ones; goes into checkpoints. Tensors, numbers, texts, containers of them."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, the checkpoint has {sorted(state)}")
