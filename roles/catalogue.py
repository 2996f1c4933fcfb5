"""What the parts of a job need of its topology, as data. Free of torch, so that `flame-run plan` can check it.

Each class of an algorithm, a selector, a sampler or a privacy preset has `traits`. Those of the shipped classes stand here
under their import paths; a class of the user's own is imported to be asked.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What decides whether a topology, or another part, can serve this one."""

    mergeable: bool = True
    """Sums of its updates add up, so that middle aggregators may pass them on."""
    needs_all_updates: bool = False
    """It looks at each update of a round by itself, all of them at once: the root holds a copy of each. Not mergeable."""
    asynchronous: bool = False
    """Updates count when they come, whatever the round they were made in."""
    surveys: bool = False
    """Before they train, all ends are asked something else in each round."""
    groups: bool = False
    """Its messages hold more tensors than the weights."""
    plain: bool = False
    """Its updates are the trained weights, averaged by the weights that the job says, and nothing else travels."""
    serverless: bool = False
    """Its server half is the plain mean, so that a ring can do without a server."""
    scalars: bool = False
    """Its updates hold numbers about the data or the training of single trainers."""
    closes: bool = False
    """It closes rounds with the first so many updates."""
    differences: bool = False
    """The parameters in its updates are differences from the model that was sent."""
    selects: bool = False
    """Not all ends take part in each round."""
    hears: bool = False
    """It looks at what single data consumers report: they are the ends of the root."""

    @property
    def passes_sums(self) -> bool:
        """Whether aggregators in the middle can serve it: they pass on sums."""
        return self.mergeable and not self.needs_all_updates


PLAIN: Final = Traits(serverless=True, plain=True)

TRAITS: Final[Mapping[str, Traits]] = MappingProxyType(
    {
        "roles.algorithms.fedavg.FedAvg": PLAIN,
        "roles.algorithms.fedavgm.FedAvgM": Traits(plain=True),
        "roles.algorithms.fedopt.FedAdam": Traits(plain=True),
        "roles.algorithms.fedopt.FedYogi": Traits(plain=True),
        "roles.algorithms.fedopt.FedAdagrad": Traits(plain=True),
        "roles.algorithms.fedprox.FedProx": PLAIN,
        "roles.algorithms.scaffold.Scaffold": Traits(groups=True),
        "roles.algorithms.feddyn.FedDyn": Traits(),
        "roles.algorithms.fednova.FedNova": Traits(scalars=True),
        "roles.algorithms.fedgft.FedGFT": Traits(surveys=True),
        "roles.algorithms.fedbuff.FedBuff": Traits(asynchronous=True, differences=True),
        "roles.algorithms.fedasync.FedAsync": Traits(asynchronous=True, mergeable=False),
        "roles.selectors.selector.All": PLAIN,
        "roles.selectors.uniform.Random": Traits(selects=True),
        "roles.selectors.choice.PowerOfChoice": Traits(selects=True, hears=True),
        "roles.selectors.oort.Oort": Traits(selects=True, hears=True, closes=True),
        "roles.selectors.trace.Trace": Traits(selects=True),
        "roles.samplers.sampler.All": PLAIN,
        "roles.samplers.fedbalancer.FedBalancer": Traits(hears=True),
        "roles.privacy.privacy.Open": PLAIN,
        "roles.privacy.dp.DifferentialPrivacy": Traits(),
    }
)
"""Import path of a shipped class -> its traits."""
