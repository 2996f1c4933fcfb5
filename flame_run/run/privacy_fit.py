"""Whether `privacy` fits the rest of the job: what it would leave unprotected, and when an epsilon would be too small."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from omegaconf import DictConfig, OmegaConf

from flame_run.errors import Problem
from flame_run.run.fitting import Shape, misfit, name_of, target_of
from roles.catalogue import Traits

SHIPPED: Final = "roles.privacy.dp.DifferentialPrivacy"
DRAWS: Final = "roles.selectors.uniform.Random"
"""The selector whose rounds are uniform draws without replacement."""
WEIGHS: Final = {"roles.algorithms.fednova.FedNova": "weights each update by how far its steps went"}
"""Algorithm -> what is left of it where every update counts 1."""
OLDEST: Final = 100
"""Up to this age, in rounds, updates are asked what they count."""


def closed(cfg: DictConfig) -> bool:
    """Whether there is a privacy preset at all."""
    return name_of(cfg, "privacy") != "Open"


def noisy(cfg: DictConfig) -> bool:
    """Whether there is noise, and with it an epsilon that has to hold; without it updates are clipped, and nothing is promised."""
    return closed(cfg) and OmegaConf.select(cfg, "privacy.noise_multiplier") != 0


def of_privacy(cfg: DictConfig, traits: Mapping[str, Traits], shape: Shape) -> Iterator[Problem]:
    """What `privacy` does not go with."""
    if not closed(cfg):
        return
    name, target = name_of(cfg, "algorithm"), target_of(cfg, "algorithm")
    if target in WEIGHS:
        yield misfit(cfg, "privacy", f"{name} {WEIGHS[target]}, and here every update counts the same")
    elif traits["algorithm"].groups and target_of(cfg, "privacy") != SHIPPED:
        reason = f"{name} sends tensors besides the weights, and only {SHIPPED} is known to protect them"
        yield misfit(cfg, "privacy", reason)
    if OmegaConf.select(cfg, "transport.codec"):
        yield Problem("transport.codec", "", "codecs change updates after they were clipped", "{}, or privacy=none")
    if noisy(cfg):
        yield from _of_numbers(cfg, traits)
        yield from _of_sampling(cfg, traits, shape)


def _of_numbers(cfg: DictConfig, traits: Mapping[str, Traits]) -> Iterator[Problem]:
    """What gets no noise, or too little."""
    algorithm, name = traits["algorithm"], name_of(cfg, "algorithm")
    clip_only = "privacy=none, or privacy.noise_multiplier=0 to clip only"
    if algorithm.surveys:
        reason = f"{name} asks every trainer for sums over its data before it trains, which get no noise"
        yield misfit(cfg, "privacy", reason, clip_only)
    elif algorithm.needs_all_updates:
        yield misfit(cfg, "privacy", f"{name} looks at every update by itself, and the noise is for their sum", clip_only)
    elif algorithm.scalars and target_of(cfg, "algorithm") not in WEIGHS:
        reason = f"{name} sends numbers about single trainers with their updates, which get no noise"
        yield misfit(cfg, "privacy", reason, clip_only)
    for group in ("selector", "sampler"):
        if traits[group].hears:
            reason = f"{name_of(cfg, group)} looks at numbers that single trainers report, which get no noise"
            yield misfit(cfg, "privacy", reason, clip_only)
    if any((own or {}).get("share") for own in (OmegaConf.select(cfg, "job.roles") or {}).values()):
        reason = "the mean of an entry that only some roles share is over fewer updates, for which its noise is too small"
        yield misfit(cfg, "privacy", f"{reason}; see job.roles.ROLE.share", clip_only)


def _of_sampling(cfg: DictConfig, traits: Mapping[str, Traits], shape: Shape) -> Iterator[Problem]:
    """An epsilon that relies on a draw needs that draw: of all clients at once, of a fixed number, and all of them deliver."""
    sampling = OmegaConf.select(cfg, "privacy.sampling")
    if sampling in (None, "none") or shape.rings:
        return
    reason = _no_draw(cfg, traits["algorithm"], shape)
    if sampling == "poisson":
        reason = "no selector draws each client by itself, as Poisson sampling does: selector=random draws a fixed number"
        yield Problem("privacy.sampling", sampling, reason, "without_replacement, or none")
    elif reason is not None:
        yield Problem("privacy.sampling", sampling, reason, "none")
    elif target_of(cfg, "selector") != DRAWS:
        reason = f"{name_of(cfg, 'selector')} is not the uniform draw of a fixed number that epsilon would rely on"
        yield Problem("privacy.sampling", sampling, reason, "none, or selector=random with selector.k=privacy.clients_per_round")
    else:
        yield from _of_number_drawn(cfg, shape)
        yield from _of_the_missing(cfg)


def _no_draw(cfg: DictConfig, algorithm: Traits, shape: Shape) -> str | None:
    """Why nobody draws the clients of a round; None if somebody may."""
    if algorithm.asynchronous:
        return f"who takes part in a round of {name_of(cfg, 'algorithm')} is not drawn at random"
    if shape.coordinated:
        return "who takes part in a round is for the coordinator to say in this topology"
    if shape.middles:
        return f"middle aggregators ({shape.middles[0]}) choose each among their own trainers, so that no draw is of all clients"
    return None


def _of_number_drawn(cfg: DictConfig, shape: Shape) -> Iterator[Problem]:
    from roles.selectors.drawing import checked_share, share_of  # noqa: PLC0415 - imports torch

    k, planned = OmegaConf.select(cfg, "selector.k"), OmegaConf.select(cfg, "privacy.clients_per_round")
    try:
        share = checked_share("selector.k", k)
    except ValueError:
        return  # the selector itself says so
    for root in shape.plan.roots if isinstance(planned, int) else ():
        ends = shape.ends(root)
        drawn = share_of(share, ends)
        if drawn != planned:
            reason = f"{root} draws {drawn} of its {ends} clients for a round, and epsilon relies on privacy.clients_per_round"
            yield Problem("privacy.clients_per_round", planned, reason, f"{drawn}, or selector.k={planned}")
            return


def _of_the_missing(cfg: DictConfig) -> Iterator[Problem]:
    """Who is missing tells of the draw: a smaller round is one of the others. So nobody may be missing."""
    reason = "a round that goes on without a client tells who was drawn, and epsilon relies on that being secret"
    legal = ", or privacy.sampling=none"
    if cfg.faults.on_worker_loss == "continue":
        yield Problem("faults.on_worker_loss", "continue", reason, f"fail or restart{legal}")
    bounds = {"faults": cfg.faults, **{f"faults.channels.{name}": own for name, own in cfg.faults.channels.items()}}
    for where, bound in bounds.items():
        if (bound or {}).get("min_ends") is not None:
            yield Problem(f"{where}.min_ends", bound.min_ends, reason, f"null{legal}")


def of_sums(cfg: DictConfig, algorithm: Any) -> Iterator[Problem]:
    """Whether an asynchronous algorithm, an instance, lets one client into a sum more than once, or count more than 1 there.

    Without that, the clip is what one client can move a sum by. A sum takes each end once (`Gather`); an end that is a middle
    aggregator has trainers that no other one has (`check_groups`), or that a coordinator keeps from the others until the sum
    they are in is used up: so a client is in a step of the root once. It counts s <= 1 times the weight 1 there, and noise of z
    times the clip is added to the sum of these, before anything is divided.
    """
    from roles.strategy import Strategy  # noqa: PLC0415 - imports torch

    if not (noisy(cfg) and isinstance(algorithm, Strategy) and algorithm.traits.asynchronous):
        return
    name = name_of(cfg, "algorithm")
    buffers = [algorithm.buffer(root=root) for root in (True, False)]
    if any(buffer is not None and buffer.repeat for buffer in buffers):
        reason = "several updates of one client may be in a sum, and the noise is for one"
        yield Problem("algorithm.repeat", True, reason, "false, or privacy.noise_multiplier=0 to clip only")
    ages = [age for age in range(OLDEST) if algorithm.staleness_weight(age) > 1]
    if ages:
        counts = algorithm.staleness_weight(ages[0])
        reason = f"an update that is {ages[0]} rounds old counts {counts:g}, and the noise is for at most 1"
        yield Problem("algorithm", name, reason, "a `staleness_weight` of at most 1")
