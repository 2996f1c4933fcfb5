"""Sample selection and deadlines that go together."""

import logging
import math
from collections.abc import Mapping
from typing import Any

from typing_extensions import override

from roles.catalogue import TRAITS
from roles.losses import reported
from roles.part import About, Client, Gathered, Report
from roles.samplers import balancing
from roles.samplers.balance import peak, stepped, threshold_of
from roles.samplers.sampler import Sampler
from transports.message import Scalar

log = logging.getLogger(__name__)


class FedBalancer(Sampler):
    """Trainers leave out samples whose loss is below a threshold, and rounds close at a deadline that fits.

    Shin, Li, Liu and Lee, "FedBalancer: Data and Pace Control for Efficient Federated Learning on Heterogeneous Clients", MobiSys
    2022.

    - Algorithm 1, at the client: all samples where they fit the deadline; else max(what fits, those with a loss of at least the
      threshold), a part p of them from these. A sample's loss is what it was when it was last trained on, in the first epoch of a
      round; a client that joins when there is a threshold looks at all of its samples once. Training ends early, after one
      epoch at least, when the next epoch would not end before the deadline.
    - Algorithm 2: threshold = min(low) + (mean(high) - min(low)) * ltr, of the least losses and the 80th percentiles that the
      clients of the last round report, with Gaussian noise of standard deviation `noise_factor`. 0 until ltr first grows.
    - Algorithm 3: every w rounds, if the benefit, the mean loss of the samples trained on per second of deadline, fell against the
      w rounds before, ltr grows by lss and ddlr falls by dss; else the other way. They begin with 0 and 1.
    - Algorithm 4: deadline = low + (high - low) * ddlr, where low and high are the times of the highest DDL-E, clients done by then
      per second, if all trained for one epoch, and for all epochs. A client's time is what its last five rounds took
      besides training, and its epochs. There is no deadline before more than half of the clients were heard.

    An update counts by the samples that it was trained on. The deadline closes the round with what came by then, at least one
    update. Where clocks are real, the number of samples differs from run to run; which ones are taken comes from the seed.
    Needs its trainers to be the ends of the root, and modules as `roles.losses` describes. DDL-E is taken over all clients that
    were heard, not over those of the coming round, who are chosen later. Unlike the authors' code, a client counts what it spends
    besides training against its deadline.

    Flame's version never ends a round, trains on the last sample of each batch only, and divides by times that are not numbers.

    Args:
        w: rounds in a window; 20 by default.
        lss: loss threshold step size; 0.05 by default.
        dss: deadline step size; 0.05 by default.
        p: which part of the samples comes from those at or above the threshold; 1.0 by default: all of them.
        noise_factor: standard deviation of the noise on reported losses; 0.0 by default: no noise.

    Raises:
        ValueError: one of them is out of its range; the text names it.
    """

    traits = TRAITS["roles.samplers.fedbalancer.FedBalancer"]

    def __init__(self, *, w: int = 20, lss: float = 0.05, dss: float = 0.05, p: float = 1.0, noise_factor: float = 0.0) -> None:
        if not isinstance(w, int) or isinstance(w, bool) or w < 1:
            raise ValueError(f"sampler.w must be a number of rounds from 1, not {w!r}")
        for name, value, most in (("lss", lss, 1.0), ("dss", dss, 1.0), ("p", p, 1.0), ("noise_factor", noise_factor, math.inf)):
            if isinstance(value, bool) or not 0 <= value <= most or math.isinf(value):
                limits = "at least 0" if math.isinf(most) else "from 0 to 1"
                raise ValueError(f"sampler.{name} must be {limits}, not {value!r}")
        self.w, self.lss, self.dss, self.p, self.noise_factor = w, lss, dss, p, noise_factor
        self._population = 1
        self._ratios = (0.0, 1.0)
        self._threshold = 0.0
        self._deadline: float | None = None
        self._benefits: list[float] = []
        """Of each round, the last 2 w at most in full windows."""
        self._times: dict[str, list[tuple[float, float]]] = {}
        """Client -> of its last rounds, seconds of an epoch and seconds besides training."""
        self._epochs = 1
        self._reports: dict[str, Report] = {}
        """Of the round that is open."""

    @override
    def begin(self, about: About) -> None:
        self._population = about.population

    @override
    def told(self, round: int) -> Mapping[str, Scalar]:
        deadline = {} if self._deadline is None else {balancing.DEADLINE: self._deadline}
        self._reports = {}
        return {balancing.THRESHOLD: self._threshold, **deadline}

    @override
    def deadline(self, round: int) -> float | None:
        return self._deadline

    @override
    def heard(self, report: Report) -> None:
        self._reports[report.end] = report

    @override
    def closed(self, gathered: Gathered, round: int) -> Gathered:
        reports, self._reports = list(self._reports.values()), {}
        self._keep_times(reports)
        self._step(reports)
        self._set_threshold(reports)
        self._set_deadline()
        return gathered

    def _keep_times(self, reports: list[Report]) -> None:
        for report in reports:
            seconds, epochs = reported(report.scalars, balancing.EPOCH_SECONDS), reported(report.scalars, balancing.EPOCHS, least=1)
            done = reported(report.scalars, balancing.EPOCHS_DONE, least=1)
            if seconds is None or epochs is None or done is None:
                log.warning("%s reports no times in round %d", report.end, report.round)
                continue
            self._epochs = int(epochs)
            own = (seconds, max(report.seconds - done * seconds, 0.0))
            self._times[report.end] = [*self._times.get(report.end, []), own][-balancing.REMEMBERED :]

    def _step(self, reports: list[Report]) -> None:
        pairs = [(reported(each.scalars, balancing.LOSS_SUM), reported(each.scalars, balancing.LOSSES)) for each in reports]
        known = [(total, count) for total, count in pairs if total is not None and count]
        if not known:
            return
        # While there is no deadline, a round lasts until the last update.
        seconds = self._deadline or max(each.seconds for each in reports)
        mean = sum(total for total, _ in known) / sum(count for _, count in known)
        self._benefits.append(mean / max(seconds, 1e-9))
        self._ratios = stepped(self._benefits, w=self.w, ratios=self._ratios, steps=(self.lss, self.dss))
        if len(self._benefits) == 2 * self.w:
            del self._benefits[: self.w]

    def _set_threshold(self, reports: list[Report]) -> None:
        pairs = [
            (reported(each.scalars, balancing.LOW, least=-math.inf), reported(each.scalars, balancing.HIGH, least=-math.inf))
            for each in reports
        ]
        known = [(low, high) for low, high in pairs if low is not None and high is not None]
        begun = self._threshold != 0.0 or self._ratios[0] != 0.0
        if known and begun:
            self._threshold = threshold_of([low for low, _ in known], [high for _, high in known], self._ratios[0])

    def _set_deadline(self) -> None:
        if 2 * len(self._times) <= self._population:
            return
        means = [[sum(each) / len(rounds) for each in zip(*rounds, strict=True)] for rounds in self._times.values()]
        low, high = (peak([max(around + epochs * seconds, 1e-9) for seconds, around in means]) for epochs in (1, self._epochs))
        # Somebody is expected right then, and rounding must not shut the door on them.
        self._deadline = (low + (high - low) * self._ratios[1]) * (1 + 1e-9)

    @override
    def metrics(self) -> Mapping[str, float]:
        values = {"fedbalancer_threshold": self._threshold, "fedbalancer_ltr": self._ratios[0], "fedbalancer_ddlr": self._ratios[1]}
        return {**values, **({} if self._deadline is None else {"fedbalancer_deadline": self._deadline})}

    @override
    def client(self) -> Client:
        return balancing.Balancing(p=self.p, noise_factor=self.noise_factor)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "ratios": list(self._ratios),
            "threshold": self._threshold,
            "deadline": self._deadline,
            "benefits": list(self._benefits),
            "times": {end: [list(each) for each in rounds] for end, rounds in self._times.items()},
            "epochs": self._epochs,
        }

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._ratios = (float(state["ratios"][0]), float(state["ratios"][1]))
        self._threshold, self._deadline, self._epochs = state["threshold"], state["deadline"], state["epochs"]
        self._benefits = list(state["benefits"])
        self._times = {end: [(float(epoch), float(around)) for epoch, around in rounds] for end, rounds in state["times"].items()}
