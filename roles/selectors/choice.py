"""Selection of the candidates with the highest loss."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from typing_extensions import override

from roles.catalogue import TRAITS
from roles.part import Client, Report
from roles.selectors.drawing import checked_share, draw, generator_of, in_plan_order, share_of
from roles.selectors.report import LossReport, mean_loss
from roles.selectors.selector import Selection, Selector


class PowerOfChoice(Selector):
    """Draws d candidates by the size of their data and asks those m of them whose loss is highest.

    Cho, Wang and Joshi, "Towards Understanding Biased Client Selection in Federated Learning", AISTATS 2022 (2020:
    "Client Selection in Federated Learning: Convergence Analysis and Power-of-Choice Selection Strategies"), the variant
    rpow-d: candidates are drawn without replacement with probability p_k = n_k / n, their loss is the last one that they
    reported, and infinite where they reported none yet. The variants pow-d and cpow-d ask the candidates for their loss under
    the current model first, for one more exchange per round.

    The loss is the mean over the samples of the first local epoch, as they are met in training (`LossReport`); the paper's is
    the mean over all local steps. The size of an end's data is known once it has taken part; until then it counts as the mean of
    the known ones. Ends with the same loss are taken as they were drawn. Needs its trainers to be the ends of the root.
    Flame has no such selector.

    Args:
        m: how many are asked: a number, or a fraction of the ends that are there; 0.1 by default.
        d: how many candidates are drawn, the same way, never less than m; 0.2 by default. With d = m it is drawing by size
            alone.

    Raises:
        ValueError: one of them is neither a number nor a fraction, or d is below m.
    """

    traits = TRAITS["roles.selectors.choice.PowerOfChoice"]

    def __init__(self, *, m: float = 0.1, d: float = 0.2) -> None:
        self.m, self.d = checked_share("selector.m", m), checked_share("selector.d", d)
        if type(m) is type(d) and d < m:
            raise ValueError(f"selector.d must be at least selector.m, {m}, not {d}")
        self._losses: dict[str, float] = {}
        self._samples: dict[str, int] = {}

    @override
    def select(self, round: int, ends: Sequence[str]) -> Selection:
        count = share_of(self.m, len(ends))
        candidates = max(count, share_of(self.d, len(ends)))
        known = [self._samples[end] for end in ends if end in self._samples]
        usual = sum(known) / len(known) if known else 1.0
        sizes = [float(self._samples.get(end, usual)) for end in ends]
        drawn = [ends[index] for index in draw(sizes, candidates, generator_of(self.seed, "selector/choice", round, ends))]
        drawn.sort(key=lambda end: self._losses.get(end, math.inf), reverse=True)
        return Selection(ends=in_plan_order(drawn[:count], ends))

    @override
    def heard(self, report: Report) -> None:
        self._samples[report.end] = report.samples
        loss = mean_loss(report)
        if loss is not None:
            self._losses[report.end] = loss

    @override
    def client(self) -> Client:
        return LossReport()

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"losses": dict(self._losses), "samples": dict(self._samples)}

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._losses, self._samples = dict(state["losses"]), dict(state["samples"])
