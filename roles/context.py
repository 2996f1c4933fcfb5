"""What a role is given: who it is, its channels, its settings, and factories for model and data.

Nothing in here knows how the process was started or where reports go; the runner fills it in, tests build it by hand.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lightning.pytorch import LightningDataModule, LightningModule

from roles.fitters import Fitters
from roles.part import Part
from roles.privacy.privacy import Open, Privacy
from roles.samplers import sampler
from roles.samplers.sampler import Sampler
from roles.selectors import selector
from roles.selectors.selector import Selector
from roles.settings import Settings
from roles.strategy import Strategy
from transports.base import ChannelSpec, Endpoint


class Reporter(Protocol):
    """Where a role says what happens to it. Calls return at once."""

    def prepared(self) -> None:
        """The worker has built what it needs and waits for its peers."""

    def entered(self, round: int) -> None:
        """The worker enters `round` (from 1)."""

    def progress(self, epoch: int, epochs: int) -> None:
        """`epoch` of `epochs` local epochs of the round is done."""

    def metrics(self, round: int, values: Mapping[str, float]) -> None:
        """Named values of `round`."""

    def result(self, values: Mapping[str, Any]) -> None:
        """What a root ends with: JSON-able."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A worker at the other end of a channel."""

    name: str
    role: str
    groups: Mapping[str, str]
    """Channel name -> label, of all its channels."""
    consumer: bool = False
    """Whether it has data of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Everything a role works with."""

    name: str
    role: str
    index: int
    endpoint: Endpoint
    channels: Mapping[str, ChannelSpec]
    """Channel name -> who is on it. The role opens them, when it is ready for its peers."""
    tags: Mapping[str, tuple[str, ...]]
    """Function tag -> names of the channels on which the schema binds it for this role."""
    peers: Mapping[str, Peer]
    groups: Mapping[str, str]
    settings: Settings
    strategy: Strategy
    reporter: Reporter
    selector: Selector = field(default_factory=selector.All)
    sampler: Sampler = field(default_factory=sampler.All)
    privacy: Privacy = field(default_factory=Open)
    population: int = 1
    """How many data consumers an aggregator has below it, directly or not."""
    folder: Path | None = None
    """Where a root stores models and checkpoints; None stores nothing."""
    state_folder: Path | None = None
    """Where the worker keeps what it remembers from round to round; None: in memory."""
    own_folder: Path | None = None
    """Where Lightning, its callbacks and its loggers write what this worker has them write; None: the working folder."""
    resume: bool = False
    """Whether the worker took part in this job before: it goes on from what it has stored, a root from its newest checkpoint."""
    build_module: Callable[[], LightningModule] | None = None
    build_data: Callable[[], LightningDataModule] | None = None
    """This worker's own data (data consumers)."""
    build_test_data: Callable[[], LightningDataModule] | None = None
    """The data that a root evaluates on."""
    build_trainer_options: Callable[[], Mapping[str, Any]] = dict
    """Keyword arguments of Lightning's `Trainer`, callbacks already built."""
    fitters: Fitters = field(default_factory=Fitters)
    """Where workers of one process get the Lightning trainers that they can share."""
    overlap: bool = True
    """Whether a root may evaluate in a thread beside the next round; not where all workers share one process."""
    aborted: threading.Event = field(default_factory=threading.Event)
    """Set when the job is over for this worker whatever it does."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """What makes the job more than plain averaging, the strategy first."""
        return (self.strategy, self.selector, self.sampler, self.privacy)
