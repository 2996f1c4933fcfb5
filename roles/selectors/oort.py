"""Guided selection: by loss, by speed, and by curiosity."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any, Literal

from typing_extensions import override

from roles.catalogue import TRAITS
from roles.part import Client, Gathered, Report
from roles.selectors.drawing import checked_share, draw, generator_of, in_plan_order, positive, share_of
from roles.selectors.report import LossReport, statistical_utility
from roles.selectors.selector import EmptySelection, Selection, Selector
from roles.selectors.utility import admitted, client_utility, clipped, normalized, preferred_seconds, relaxations

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Known:
    """What is known of the clients, by their names."""

    utility: dict[str, float] = field(default_factory=dict)
    """U(i), of those who were heard."""
    last: dict[str, int] = field(default_factory=dict)
    """L(i), the round in which they were heard last."""
    seconds: dict[str, float] = field(default_factory=dict)
    """t_i; of those who only ever missed rounds, at least so much."""
    heard: dict[str, int] = field(default_factory=dict)
    """In how many rounds they were heard."""
    achieved: dict[int, float] = field(default_factory=dict)
    """Round -> sum of the utilities of those who were heard in it."""


class Oort(Selector):
    """Asks overcommitment * K ends and closes the round with the first K updates.

    Lai et al., "Oort: Efficient Federated Learning via Guided Participant Selection", OSDI 2021, algorithm 1.

    - Statistical utility U(i) = |B_i| * sqrt(sum_k(loss_k ** 2) / |B_i|) over the samples of the first local epoch, clipped at a
      quantile over all clients.
    - Utility (U(i) + sqrt(0.1 ln R / L(i))), times (T / t_i) ** alpha for a client that takes longer than T, where R is
      the round, L(i) the last one in which the client took part, and t_i the time from its model to its update.
    - (1 - epsilon) of the ends are drawn in proportion to their utility from those who have at least `cut_off_util` of the
      utility of the last one that would fit; epsilon of them from those who were never heard, faster ones first in proportion. How
      fast these are is not known before they took part: they are alike, but for those who were asked and did not deliver.
    - Pacer: every `pacer_step` rounds T is relaxed by `pacer_delta` if the utility achieved fell against the window before.

    An end that was asked and did not deliver counts as at least as slow as the slowest one of that round. Needs its trainers to be
    the ends of the root. Where times differ from run to run, so does the choice.

    Flame's version sorts nothing, cuts off from the wrong side and by the share of exploration, clips without effect, and takes
    the loss of one batch. The authors' code scales the utilities to [0, 1], which makes curiosity weigh more: `normalize`.

    Args:
        k: K, how many updates a round needs: a number, or a fraction of the ends that are there; 10 by default.
        overcommitment: how many times K are asked, rounded up; 1.3 by default.
        exploration_factor: epsilon in round 1; 0.9 by default.
        exploration_decay: what epsilon is multiplied by after each round; 0.98 by default.
        exploration_min: below this epsilon does not fall; 0.2 by default.
        alpha: penalty of clients slower than T; 2.0 by default.
        cut_off_util: c, the share of the cut-off utility that admits; 0.95 by default.
        clip_bound: the quantile at which statistical utilities are clipped; 0.95 by default, 1: not.
        pacer_unit: what T is counted in: "percentile" (the default) of the durations known, from `round_threshold`, or "seconds",
            from `pacer_delta`, as in the paper.
        pacer_step: W, rounds in a window of the pacer; 20 by default.
        pacer_delta: Delta, by how much T is relaxed: percentiles or seconds; 5.0 by default.
        round_threshold: the percentile that T begins with; 30.0 by default, 100: no client is too slow.
        blacklist_rounds: a client that took part more often is left out; None, the default: never.
        blacklist_max_len: at most this share of the ends is left out, the most used first; 0.3 by default.
        normalize: whether the clipped utilities are scaled to [0, 1]; False by default.

    Raises:
        ValueError: one of them is out of its range; the text names it.
    """

    traits = TRAITS["roles.selectors.oort.Oort"]

    def __init__(
        self,
        *,
        k: float = 10,
        overcommitment: float = 1.3,
        exploration_factor: float = 0.9,
        exploration_decay: float = 0.98,
        exploration_min: float = 0.2,
        alpha: float = 2.0,
        cut_off_util: float = 0.95,
        clip_bound: float = 0.95,
        pacer_unit: Literal["percentile", "seconds"] = "percentile",
        pacer_step: int = 20,
        pacer_delta: float = 5.0,
        round_threshold: float = 30.0,
        blacklist_rounds: int | None = None,
        blacklist_max_len: float = 0.3,
        normalize: bool = False,
    ) -> None:
        self.k = checked_share("selector.k", k)
        self.overcommitment = _within("overcommitment", overcommitment, 1, math.inf)
        self.exploration_factor = _within("exploration_factor", exploration_factor, 0, 1)
        self.exploration_decay = positive("selector.exploration_decay", exploration_decay, most=1)
        self.exploration_min = _within("exploration_min", exploration_min, 0, exploration_factor)
        self.alpha = _within("alpha", alpha, 0, math.inf)
        self.cut_off_util = _within("cut_off_util", cut_off_util, 0, 1)
        self.clip_bound = positive("selector.clip_bound", clip_bound, most=1)
        if pacer_unit not in ("percentile", "seconds"):
            raise ValueError(f"selector.pacer_unit must be percentile or seconds, not {pacer_unit!r}")
        self.pacer_unit = pacer_unit
        self.pacer_step = int(_within("pacer_step", pacer_step, 1, math.inf))
        self.pacer_delta = positive("selector.pacer_delta", pacer_delta)
        self.round_threshold = positive("selector.round_threshold", round_threshold, most=100)
        self.blacklist_rounds = (
            None if blacklist_rounds is None else int(_within("blacklist_rounds", blacklist_rounds, 1, math.inf))
        )
        self.blacklist_max_len = _within("blacklist_max_len", blacklist_max_len, 0, 1)
        self.normalize = normalize
        self._known = _Known()
        self._reports: dict[str, tuple[float, float]] = {}
        """Of the round that is open: end -> utility, seconds."""
        self._missed: set[str] = set()
        self._round = 0
        """The last one that closed."""

    def exploration(self, round: int) -> float:
        """The share of ends that are drawn from those who were never heard: epsilon of `round`."""
        return max(self.exploration_factor * self.exploration_decay ** (round - 1), self.exploration_min)

    def preferred(self, round: int) -> float:
        """T in `round`, in seconds."""
        relaxed = self.pacer_delta * relaxations(self._known.achieved, round, self.pacer_step)
        if self.pacer_unit == "seconds":
            return self.pacer_delta + relaxed
        return preferred_seconds([self._known.seconds[end] for end in self._known.utility], self.round_threshold + relaxed)

    @override
    def select(self, round: int, ends: Sequence[str]) -> Selection:
        if not ends:
            raise EmptySelection(f"round {round}: nobody is there to choose from")
        # What was heard of an attempt at the round that failed does not count.
        self._reports, self._missed = {}, set()
        generator, barred = generator_of(self.seed, "selector/oort", round, ends), self._barred(ends)
        known = [end for end in ends if end in self._known.utility and end not in barred]
        new = [end for end in ends if end not in self._known.utility]
        needed = share_of(self.k, len(ends))
        wanted = min(math.ceil(Fraction(str(self.overcommitment)) * needed), len(known) + len(new))
        # The product of floats may lie just below the number that is meant.
        exploit = min(int((1 - self.exploration(round)) * wanted + 1e-9), len(known))
        explore = min(wanted - exploit, len(new))
        exploit = wanted - explore
        utilities = self._utilities(round, known)
        best = admitted(utilities, exploit, self.cut_off_util)
        chosen = [best[index] for index in draw([utilities[end] for end in best], exploit, generator)]
        chosen += [new[index] for index in draw(self._speeds(new), explore, generator)]
        return Selection(ends=in_plan_order(chosen, ends), needed=min(needed, len(chosen)))

    @override
    def heard(self, report: Report) -> None:
        utility = statistical_utility(report)
        if utility is None:
            log.warning("%s reports no loss in round %d: it counts as if it were not heard", report.end, report.round)
            return
        self._reports[report.end] = (utility, report.seconds)

    @override
    def missed(self, end: str, round: int, reason: str) -> None:
        self._missed.add(end)

    @override
    def closed(self, gathered: Gathered, round: int) -> Gathered:
        self._round = round
        for end, (utility, seconds) in self._reports.items():
            self._known.utility[end], self._known.seconds[end], self._known.last[end] = utility, seconds, round
            self._known.heard[end] = self._known.heard.get(end, 0) + 1
        self._known.achieved[round] = sum(utility for utility, _ in self._reports.values())
        slowest = max((seconds for _, seconds in self._reports.values()), default=0.0)
        for end in self._missed:
            self._known.seconds[end] = max(self._known.seconds.get(end, 0.0), slowest)
        self._reports, self._missed = {}, set()
        return gathered

    def _barred(self, ends: Sequence[str]) -> set[str]:
        if self.blacklist_rounds is None:
            return set()
        used = [end for end in ends if self._known.heard.get(end, 0) > self.blacklist_rounds]
        used.sort(key=lambda end: self._known.heard[end], reverse=True)
        return set(used[: int(Fraction(str(self.blacklist_max_len)) * len(ends))])

    def _utilities(self, round: int, known: Sequence[str]) -> dict[str, float]:
        statistical = clipped({end: self._known.utility[end] for end in known}, self.clip_bound)
        statistical = normalized(statistical) if self.normalize else statistical
        common: dict[str, Any] = {"round": round, "preferred": self.preferred(round), "alpha": self.alpha}
        return {
            end: client_utility(statistical[end], last=self._known.last[end], seconds=self._known.seconds[end], **common)
            for end in known
        }

    def _speeds(self, new: Sequence[str]) -> list[float]:
        """Weights of clients that were never heard: those of which nothing is known may be as fast as anybody."""
        fastest = min((seconds for seconds in self._known.seconds.values() if seconds > 0), default=1.0)
        return [1.0 / max(self._known.seconds.get(end, fastest), fastest) for end in new]

    @override
    def metrics(self) -> Mapping[str, float]:
        preferred = self.preferred(self._round)
        values = {"oort_exploration": self.exploration(self._round), "oort_explored": float(len(self._known.utility))}
        return {**values, **({"oort_preferred_seconds": preferred} if math.isfinite(preferred) else {})}

    @override
    def client(self) -> Client:
        return LossReport()

    @override
    def state_dict(self) -> dict[str, Any]:
        return {**asdict(self._known), "round": self._round}

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        parts = {name: dict(part) for name, part in state.items() if name != "round"}
        self._known, self._round = _Known(**parts), state["round"]
        self._reports, self._missed = {}, set()


def _within(name: str, value: float, least: float, most: float) -> float:
    """A finite number from `least` to `most`.

    Raises:
        ValueError: it is not one.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most or math.isinf(value):
        limits = f"at least {least:g}" if math.isinf(most) else f"from {least:g} to {most:g}"
        raise ValueError(f"selector.{name} must be {limits}, not {value!r}")
    return value
