"""A worker's part of the plan as its site carries it out: the job says what to compute, the site where its data lie.

What the site fills in stays in this process; nothing here is sent anywhere.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from flame_run.config.part import stand_in
from flame_run.errors import InvalidConfig, Problem
from flame_run.join.site import SiteConf
from flame_run.topology.plan import AT_SITE

_RUN = re.compile(r"[0-9a-f]{6,64}")
_NAME = re.compile(r"[A-Za-z][\w.-]*")
_OF_THE_JOB = "file://"
"""A URL of the job that names a path: it is one of the coordinator's machine, never to be looked for at a site."""


def to_approve(part: Mapping[str, Any], site: SiteConf) -> dict[str, Any]:
    """What of `part` comes from the job and would be carried out here: what the site replaces is left out."""
    config = {key: value for key, value in part["config"].items() if key != "python_path"}
    model = dict(config["model"])
    if site.model.data:
        model.pop("data")
    model["trainer"] = {key: value for key, value in (model["trainer"] or {}).items() if key not in site.model.trainer}
    described = {key: part[key] for key in ("worker", "evaluation")}
    return {"code": part["code"], "config": {**config, "model": model}, **described}


def objections(part: Mapping[str, Any], site: SiteConf) -> Iterator[Problem]:
    """What this site cannot or will not do of the job's plan, apart from its code."""
    for channel in part["channels"]:
        hosted = [end["name"] for end in channel["ends"] if end["name"] not in channel["dials"]]
        if site.site.dial_only and hosted:
            reason = f"{', '.join(hosted[:3])} would dial this worker, and nobody can dial into this site"
            legal = f"job.roles.{part['worker']['role']}.dialOnly=true at the job"
            yield Problem(f"channel {channel['name']}", channel["group"], reason, legal)
    own = site.dataset.url is not None or site.dataset.path is not None
    for key, dataset in (("the dataset", part["worker"]["dataset"]), ("the dataset of the evaluation", part["evaluation"])):
        url = "" if dataset is None else dataset["url"]
        if url.startswith(_OF_THE_JOB) and not own and not site.model.data:
            reason = "a path of the job's machine means nothing at this site"
            yield Problem(key, url, reason, "dataset.path=PATH or dataset.url=URL")
        if url.startswith(AT_SITE) and not own and not site.model.data:
            yield Problem(key, url, "the job leaves it to this site where the data lie", "dataset.path=PATH or model.data")
    for place, value, form in (("job.run", part["job"]["run"], _RUN), ("worker.name", part["worker"]["name"], _NAME)):
        if not form.fullmatch(str(value)):
            yield Problem(place, value, "it cannot be the name of a folder here", form.pattern)


def adopt(part: Mapping[str, Any], site: SiteConf) -> dict[str, Any]:
    """`part` with the site's own data, folders, addresses and options of Lightning's Trainer.

    Raises:
        InvalidConfig: what the site says does not fit this worker.
    """
    config, worker = dict(part["config"]), dict(part["worker"])
    config["python_path"] = list(site.python_path)
    config["transport"] = {**config["transport"], "bind": site.transport.bind, "advertise": site.transport.advertise}
    config["model"] = {**config["model"], **_model(config, site)}
    worker["dataset"] = _dataset(worker["dataset"], site)
    evaluation = part["evaluation"]
    if evaluation is not None and (worker["dataset"] is None or evaluation["url"].startswith(_OF_THE_JOB)):
        evaluation = _dataset(evaluation, site)
    if worker["dataset"] is None and evaluation is None and (site.dataset.url or site.dataset.path or site.model.data):
        reason = "this worker uses no data"
        raise InvalidConfig(
            [Problem("dataset", worker["name"], reason, "dataset.* and model.data for workers that train or evaluate")]
        )
    home = Path(site.site.folder).absolute() / part["job"]["run"] / worker["name"]
    folders = {"folder": None if part["folder"] is None else str(home / "models"), "state_folder": str(home / "state")}
    return {**part, "config": config, "worker": worker, "evaluation": evaluation, **folders}


def _model(config: Mapping[str, Any], site: SiteConf) -> dict[str, Any]:
    """The keys of `model` that the site replaces; `${job.KEY}` in them is the job's value."""
    OmegaConf.register_new_resolver("worker", stand_in, replace=True)
    both = OmegaConf.create({"job": config["job"], "model": OmegaConf.to_container(cast("Any", site.model), resolve=False)})
    try:
        own = cast("dict[str, Any]", OmegaConf.to_container(both.model, resolve=True))
    except OmegaConfBaseException as error:
        raise InvalidConfig([Problem(error.full_key or "model", "", str(error).splitlines()[0])]) from error
    replaced = {"trainer": {**(config["model"]["trainer"] or {}), **own["trainer"]}}
    return {**replaced, "data": own["data"]} if own["data"] else replaced


def _dataset(dataset: Mapping[str, Any] | None, site: SiteConf) -> dict[str, Any] | None:
    if dataset is None:
        return None
    own = dict(dataset)
    if site.dataset.path is not None:
        own["url"] = f"file://{quote(str(Path(site.dataset.path).expanduser().absolute()))}"
    elif site.dataset.url is not None:
        own["url"] = site.dataset.url
    elif own["url"].startswith(_OF_THE_JOB):
        own["url"] = AT_SITE
    if site.dataset.format is not None:
        own["data_format"] = site.dataset.format
    if site.dataset.whole:
        own["partition"] = None
    return own
