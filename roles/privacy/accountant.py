"""What rounds of noisy means have cost so far: (epsilon, delta), by Google's dp-accounting."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from roles.errors import BadModel

Sampling = Literal["none", "without_replacement"]
"""How the clients of a round were chosen: see `Accountant`."""
SAMPLINGS: Final[tuple[Sampling, ...]] = get_args(Sampling)

# Integers only: at others the library's series for a sampled Gaussian may not converge.
SAMPLED_ORDERS: Final = (*range(2, 64), 128, 256, 512)
"""Renyi orders for sampled clients."""
ORDERS: Final = (*(1 + tenth / 10 for tenth in range(1, 100)), *range(11, 64), 128, 256, 512)
"""Renyi orders without sampling."""


def library() -> ModuleType:
    """The module `dp_accounting`; it takes half a second to import, and only the root of a private job needs it.

    Raises:
        BadModel: it is not installed.
    """
    try:
        import dp_accounting  # noqa: PLC0415 - see above
        import dp_accounting.rdp  # noqa: PLC0415
    except ImportError as error:
        raise BadModel(
            "privacy=dp needs dp-accounting to work out epsilon: pip install dp-accounting, or set privacy.noise_multiplier=0 to "
            "clip only"
        ) from error
    return dp_accounting  # type: ignore[no-any-return, unused-ignore]


class Accountant:
    """Sums up the Renyi divergences of the rounds of a job.

    How many clients there are, and how many took part in a round, is public.

    `none`: no amplification by sampling, whoever chose the clients. Two populations are neighbours where one client
    contributes zeros in one of them: that moves a sum by at most the clip.
    `without_replacement`: exactly `asked` of `population` take part, chosen uniformly and in secret. Two populations are neighbours
    where one client is replaced: that moves a sum by at most twice the clip, so that the noise counts half. It does not hold in
    a job that goes on without somebody who was chosen: how many took part would then tell something of the choice.

    Poisson sampling (McMahan et al. 2018: each client by itself with the same probability) is not there: no selector draws like
    that, and its epsilon needs sums that are divided by the expected number of clients, not by the public one of those who came.
    """

    def __init__(self, sampling: Sampling, *, asked: int, population: int) -> None:
        """Nothing spent so far.

        Raises:
            BadModel: dp-accounting is not installed.
        """
        self._library = library()
        self._sampling = sampling
        self._asked, self._population = asked, population
        self._orders = np.array(ORDERS if sampling == "none" else SAMPLED_ORDERS, np.float64)
        self._counts: dict[float, int] = {}
        self._costs: dict[float, NDArray[np.float64]] = {}

    def spend(self, noise_multiplier: float) -> None:
        """One more round, with noise of this multiple of the clip on its sum."""
        self._counts[noise_multiplier] = self._counts.get(noise_multiplier, 0) + 1

    def epsilon(self, delta: float) -> float:
        """The epsilon of all rounds together at `delta`; 0 before the first."""
        if not self._counts:
            return 0.0
        spent = sum(count * self._cost(multiplier) for multiplier, count in self._counts.items())
        return float(self._library.rdp.compute_epsilon(self._orders, spent, delta)[0])

    def state_dict(self) -> dict[str, Any]:
        """Noise multipliers and how many rounds had each."""
        return {"multipliers": list(self._counts), "rounds": list(self._counts.values())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self._counts = dict(zip(state["multipliers"], state["rounds"], strict=True))

    def _cost(self, multiplier: float) -> NDArray[np.float64]:
        if multiplier not in self._costs:
            relations = self._library.NeighboringRelation
            swaps = self._sampling == "without_replacement"
            relation = relations.REPLACE_ONE if swaps else relations.ADD_OR_REMOVE_ONE
            accountant = self._library.rdp.RdpAccountant(self._orders, relation)
            self._costs[multiplier] = accountant.compose(self._event(multiplier)).rdp
        return self._costs[multiplier]

    def _event(self, multiplier: float) -> Any:
        if self._sampling == "without_replacement":
            halved = self._library.GaussianDpEvent(multiplier / 2)
            return self._library.SampledWithoutReplacementDpEvent(self._population, self._asked, halved)
        return self._library.GaussianDpEvent(multiplier)
