"""From the resolved configuration of a worker to the settings that roles understand."""

from collections.abc import Mapping
from typing import Any

from flame_run.config.codecs import codecs_of
from flame_run.config.part import narrowed
from flame_run.run.faults import of_channel
from flame_run.run.simulated import simulated_of
from roles.settings import Checkpoint, Quorum, Settings, Share, Stop


def settings_of(config: Mapping[str, Any]) -> Settings:
    """Settings from a `role_config`; values have been checked by the documents' schemas and the groups' types."""
    job, faults, checkpoint = config["job"], config["faults"], config["checkpoint"]
    hyperparameters = job.get("hyperparameters") or {}
    evaluate, share = job.get("evaluate") or {}, job.get("share") or {}
    stop = {key: value for key, value in (job.get("stop") or {}).items() if value is not None}
    base = job.get("baseModel")
    return Settings(
        seed=job.get("seed", 0),
        rounds=hyperparameters.get("rounds", 1),
        epochs=hyperparameters.get("epochs", 1),
        evaluate_every=evaluate.get("every", 1),
        optimizer=job.get("optimizer") or "reset",
        coordinate=(job.get("coordinate") or {}).get("policy", "random"),
        base_model=base.get("path") if base else None,
        hyperparameters=hyperparameters,
        stop=Stop(**stop),
        share=_share(share),
        shares={name: _share(narrowed(share, own["share"])) for name, own in (job.get("roles") or {}).items() if own.get("share")},
        eager=(job.get("order") or "plan") == "arrival",
        simulated=simulated_of(job),
        checkpoint=Checkpoint(
            every=checkpoint["every"], keep=checkpoint["keep"], metric=checkpoint["metric"], mode=checkpoint["mode"]
        ),
        quorum=_quorum(faults, faults["min_ends"], faults["deadline"]),
        codecs=codecs_of(config["transport"].get("codec")),
        channels={name: _quorum(faults, **of_channel(faults, name)) for name in faults["channels"]},
    )


def _share(share: Mapping[str, Any]) -> Share:
    return Share(
        include=tuple(share.get("include") or ("*",)),
        exclude=tuple(share.get("exclude") or ()),
        weighted_by=share.get("weightedBy") or "samples",
        parameters_only=bool(share.get("parametersOnly")),
    )


def _quorum(faults: Mapping[str, Any], min_ends: float | None, deadline: float | None) -> Quorum:
    return Quorum(
        min_ends=min_ends,
        deadline=deadline,
        join_timeout=faults["join_timeout"],
        rejoin_timeout=faults["rejoin_timeout"],
        survivors=faults["on_worker_loss"] == "continue",
        max_bad_updates=faults["max_bad_updates"],
    )
