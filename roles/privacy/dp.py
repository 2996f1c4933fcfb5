"""Client-level differential privacy: clipped updates, Gaussian noise, and what it has cost."""

import math
from collections.abc import Mapping
from itertools import chain
from typing import Any, ClassVar, Literal

from typing_extensions import override

from roles.catalogue import TRAITS
from roles.errors import BadModel
from roles.part import About, Client, Gathered
from roles.privacy.accountant import SAMPLINGS, Accountant, Sampling
from roles.privacy.clipped import CLIP, COUNT_NOISE, NOISE, WITHIN, ClippedUpdates
from roles.privacy.clipping import multiplier_of_updates, next_clip, real
from roles.privacy.noise import Noise, SeededNoise, SystemNoise
from roles.privacy.privacy import Privacy
from roles.rounds.average import averaged
from transports.message import Scalar

ROUNDING = 1e-9
"""Relative; sums of weights that are 1 are exact but for this."""


class DifferentialPrivacy(Privacy):
    """The DP-FedAvg of McMahan et al., with any algorithm whose updates are tensors: clip the whole update, add Gaussian noise.

    McMahan, Ramage, Talwar, Zhang, "Learning Differentially Private Recurrent Language Models", ICLR 2018, algorithm 1 with
    flat clipping; adaptive clip: Andrew, Thakkar, McMahan, Ramaswamy, "Differentially Private Learning with Adaptive
    Clipping", NeurIPS 2021, algorithm 1.

        d_i = w_i - w;  d_i <- d_i * min(1, C / ||d_i||_2);  w <- w + sum_i(d_i) / m + N(0, (z C / m)^2)
        adaptive: b = (sum_i(b_i - 1/2) + N(0, sigma_b^2)) / m + 1/2;  C <- C * exp(-eta_C (b - gamma)); z becomes
        z_Delta = (z^-2 - (2 sigma_b)^-2)^(-1/2) for the updates, so that both together cost what z costs.

    The update is one vector d_i of all that goes up: the difference of the weights, and what an algorithm sends besides
    (SCAFFOLD: the change of the control variates). It is clipped as a whole, so that C bounds all of it, and the sum of each part
    gets noise of z C.

    The difference is that of all floating-point entries that are exchanged, buffers such as BatchNorm's statistics included:
    they tell of data as much as weights do. Variances of BatchNorm that the noise made negative become 0.
    Integer entries (counters) stay as they are: leave them out with `job.share.exclude` where they tell too much.
    Every update counts the same (n_i = 1), whatever
    `job.share.weightedBy` or the algorithm say. m is the sum of the weights in the round: the number of its updates, less
    where an asynchronous algorithm lets old ones count less; C still bounds what one client adds to the sum, because it is in
    a sum once (never with `algorithm.repeat`) and counts at most 1.

    Args:
        clip: C, of the first round where it adapts, above 0; 1.0 by default. Infinite: never clip, which needs noise_multiplier 0.
        noise_multiplier: z, from 0; 1.0 by default. 0: no noise, no epsilon, and no promise: updates are clipped, and what else
            goes up is let through.
        delta: of (epsilon, delta), below 1 / clients; 1e-05 by default.
        side: "server" (the default): the root adds the noise to the mean. "client": each client adds N(0, (z C)^2 / m) to its own
            update, so that the sum holds the same noise; m is `clients_per_round`. Protects against who sees the sum only: an
            aggregator that looks at single updates sees each with 1 / sqrt(m) of the noise. Where clients are missing, the sum has
            less noise, and epsilon grows accordingly.
        adaptive: whether the clip follows a quantile of the norms; False by default.
        quantile: gamma, that quantile; 0.5 by default.
        clip_learning_rate: eta_C, at which rate the clip follows it; 0.2 by default.
        count_noise: sigma_b, standard deviation of the noise on how many norms are within the clip; None, the default: m / 20, the
            paper's.
        clients_per_round: m as planned, those that are asked; None, the default: all clients.
        sampling: what epsilon may rely on: "none" (the default): no amplification, right for each selector. "without_replacement":
            with `selector=random` at a root whose ends are the clients, and clients_per_round of them drawn in each round. It
            amplifies by clients_per_round / clients, and only holds where who took part stays secret: keep `job.seed` secret too,
            from which they are drawn. Who is missing would tell of the draw, so that no round may go on without a client: not with
            `faults.on_worker_loss=continue` or `faults.min_ends`. See `roles.privacy.accountant.Accountant`.
        reproducible: whether noise comes from the job seed; False by default: it comes from the system's cryptographic generator,
            and no two runs are the same. Else it is the same in each run, and whoever knows the seed (it lies in the run folder)
            can subtract it.

    Metrics of each round at the root: `dp_clip`, which updates of it were clipped to (if finite), with adaptive clipping
    `dp_within`, b, and with noise `dp_epsilon` and `dp_delta` of all models up to this one. They hold for the global models,
    towards whoever sees these; numbers that workers report beside them (losses, samples) are not covered. A round that a
    resumed job does again is counted once, although its first model may have been seen.

    Needs of the topology: none; middle aggregators add up. Not in rings, where workers see parts of each other's weights. Numbers
    and answers to surveys get no noise, so that parts that report some (FedGFT, Oort, power of choice, FedBalancer) go with
    noise_multiplier 0 only; FedNova weights updates by its steps, and never goes. Lossy codecs on the way up change updates after
    they were clipped.

    With SCAFFOLD, c_i moves by its change as it was clipped, so that c stays their mean but for the noise. Changes of control
    variates are as long as gradients, and those of weights are shorter by the learning rate: C has to be of the size of gradients.

    Flame's version differs: its noise is absolute, not a multiple of the clip; each client adds all of it; it has no
    accountant, no seed, no server side.
    """

    traits = TRAITS["roles.privacy.dp.DifferentialPrivacy"]
    sums: ClassVar[tuple[str, ...]] = (WITHIN,)

    def __init__(
        self,
        *,
        clip: float = 1.0,
        noise_multiplier: float = 1.0,
        delta: float = 1e-5,
        side: Literal["server", "client"] = "server",
        adaptive: bool = False,
        quantile: float = 0.5,
        clip_learning_rate: float = 0.2,
        count_noise: float | None = None,
        clients_per_round: int | None = None,
        sampling: Sampling = "none",
        reproducible: bool = False,
    ) -> None:
        """See the class.

        Raises:
            ValueError: a key has a value that it cannot have; the text names it.
        """
        _require(clip > 0, "clip", clip, "above 0")
        _require(0 <= noise_multiplier < math.inf, "noise_multiplier", noise_multiplier, "a number from 0")
        _require(clip < math.inf or noise_multiplier == 0, "noise_multiplier", noise_multiplier, "0 where the clip is infinite")
        _require(clip < math.inf or not adaptive, "clip", clip, "finite where it adapts")
        _require(0 < delta < 1, "delta", delta, "above 0 and below 1")
        _require(side in ("server", "client"), "side", side, "'server' or 'client'")
        _require(0 <= quantile <= 1, "quantile", quantile, "from 0 to 1")
        _require(0 < clip_learning_rate < math.inf, "clip_learning_rate", clip_learning_rate, "above 0")
        _require(clients_per_round is None or clients_per_round >= 1, "clients_per_round", clients_per_round, "1 or more")
        _require(sampling in SAMPLINGS, "sampling", sampling, f"one of {', '.join(SAMPLINGS)}")
        planned = sampling == "none" or clients_per_round is not None
        _require(planned, "clients_per_round", clients_per_round, f"a number with sampling={sampling}")
        self._clip = float(clip)
        self._noise_multiplier = float(noise_multiplier)
        self._delta = delta
        self._at_clients = side == "client"
        self._adaptive = adaptive
        self._quantile, self._clip_learning_rate, self._count_noise = quantile, clip_learning_rate, count_noise
        self._clients_per_round = clients_per_round
        self._sampling: Sampling = sampling
        self._reproducible = reproducible
        self._accountant: Accountant | None = None
        self._metrics: dict[str, float] = {}

    @override
    def begin(self, about: About) -> None:
        clients = self._clients_per_round or about.population
        _require(clients <= about.population, "clients_per_round", clients, f"at most the {about.population} clients of the job")
        self._clients = clients
        self._seed = about.seed
        self._variances = [name for name in about.start if name.endswith("running_var") and name not in about.parameters]
        self._sigma = self._sigma_of_count()
        self._updates_multiplier = self._noise_multiplier
        if self._noise_multiplier == 0:
            return
        _require(self._delta * about.population < 1, "delta", self._delta, f"below 1 / {about.population}, the number of clients")
        self._accountant = Accountant(self._sampling, asked=clients, population=about.population)
        if self._adaptive:
            self._updates_multiplier = multiplier_of_updates(self._noise_multiplier, self._sigma)

    def _sigma_of_count(self) -> float:
        """sigma_b: 0 where there is no noise at all."""
        if self._noise_multiplier == 0 or not self._adaptive:
            return 0.0
        sigma = self._clients / 20 if self._count_noise is None else float(self._count_noise)
        least = self._noise_multiplier / 2
        legal = f"above noise_multiplier / 2 = {least:g}; null is clients_per_round / 20"
        _require(least < sigma < math.inf, "count_noise", sigma, legal)
        return sigma

    @override
    def told(self, round: int) -> Mapping[str, Scalar]:
        spread = math.sqrt(self._clients)
        noise = self._updates_multiplier * self._clip / spread if self._noises_at_clients else 0.0
        return {CLIP: self._clip, NOISE: noise, COUNT_NOISE: self._sigma / spread if self._at_clients else 0.0}

    @property
    def _noises_at_clients(self) -> bool:
        return self._at_clients and self._noise_multiplier > 0

    @override
    def closed(self, gathered: Gathered, round: int) -> Gathered:
        """The mean with its noise, if that is the root's to add.

        Raises:
            BadModel: epsilon would be wrong: other than `clients_per_round` clients took part where it relies on their draw,
                updates counted more than 1, or the strategy looks at each of them.
        """
        weight, count = gathered.weight, gathered.count
        if self._noise_multiplier > 0:
            self._require_sum(gathered, round)
        self._metrics = {CLIP: self._clip} if self._clip < math.inf else {}
        multiplier = self._noise_multiplier
        if self._noises_at_clients:
            # Each update brought (z C)^2 / m, times its weight squared: at least so much is in the sum.
            multiplier *= weight / math.sqrt(count * self._clients)
        elif multiplier > 0:
            self._add_noise(gathered, self._noise("server", round))
        self._keep_variances(gathered)
        if self._adaptive:
            self._adapt(gathered, round)
        if self._accountant is not None:
            self._accountant.spend(multiplier)
        return gathered

    def _require_sum(self, gathered: Gathered, round: int) -> None:
        weight, count = gathered.weight, gathered.count
        if weight > count * (1 + ROUNDING):
            raise BadModel(f"privacy=dp: {count} updates of round {round} count {weight:g}, but each may count at most 1")
        if gathered.singles:
            raise BadModel("privacy=dp: the noise is on the sum of the updates, and the algorithm looks at each of them")
        if self._sampling != "none" and count != self._clients:
            raise BadModel(
                f"{count} clients took part in round {round}, privacy.clients_per_round={self._clients}: with "
                f"privacy.sampling={self._sampling}, epsilon relies on that number"
            )

    def _add_noise(self, gathered: Gathered, noise: Noise) -> None:
        std = self._updates_multiplier * self._clip / gathered.weight
        for value in chain.from_iterable(entries.values() for entries in gathered.groups.values()):
            if averaged(value.dtype):
                numbers = real(value)
                numbers.add_(noise.like(numbers, std).to(numbers.dtype))

    def _keep_variances(self, gathered: Gathered) -> None:
        if self._noise_multiplier > 0:
            for name in self._variances:
                gathered.mean[name].clamp_(min=0)

    def _adapt(self, gathered: Gathered, round: int) -> None:
        count = gathered.count
        centred = gathered.sums[WITHIN] - count / 2
        if not self._at_clients and self._sigma > 0:
            centred += float(self._noise("count", round).draw(1)) * self._sigma
        within = centred / count + 0.5
        self._metrics[WITHIN] = within
        self._clip = next_clip(self._clip, within=within, quantile=self._quantile, learning_rate=self._clip_learning_rate)

    def _noise(self, what: str, round: int) -> Noise:
        return SeededNoise(self._seed, "dp", what, round) if self._reproducible else SystemNoise()

    @override
    def metrics(self) -> Mapping[str, float]:
        if self._accountant is None:
            return self._metrics
        return {**self._metrics, "dp_epsilon": self._accountant.epsilon(self._delta), "dp_delta": self._delta}

    @override
    def client(self) -> Client:
        return ClippedUpdates(noisy=self._noise_multiplier > 0, adaptive=self._adaptive, reproducible=self._reproducible)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"clip": self._clip, "spent": None if self._accountant is None else self._accountant.state_dict()}

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._clip = state["clip"]
        if self._accountant is not None and state["spent"] is not None:
            self._accountant.load_state_dict(state["spent"])


def _require(holds: bool, key: str, value: object, legal: str) -> None:
    if not holds:
        raise ValueError(f"DifferentialPrivacy.{key} = {value!r} must be {legal}")
