"""The configuration of a site: what is its own to say when one of its workers joins a job. Typed; no torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from flame_run.config.hydra_errors import nearest
from flame_run.data.urls import check_url
from flame_run.errors import InvalidConfig, Problem
from flame_run.join.approve import bad_patterns
from flame_run.join.digest import DIGEST
from flame_run.run.trainer_options import check_trainer


@dataclass(kw_only=True)
class SiteModelConf:
    """Key `model`: how this site loads its data and uses its machine."""

    data: dict[str, Any] = field(default_factory=dict)
    """`_target_` of the site's own LightningDataModule and its arguments; empty: the job's."""
    trainer: dict[str, Any] = field(default_factory=dict)
    """Options of Lightning's Trainer that go before the job's, such as `accelerator`."""


@dataclass(kw_only=True)
class SiteDatasetConf:
    """Key `dataset`: where the data of this worker lie at this site."""

    url: str | None = None
    """A dataset URL; null: the job's."""
    path: str | None = None
    """A file or folder, instead of a URL."""
    format: str | None = None
    """Its `dataFormat`; null: the job's."""
    whole: bool = False
    """Use all of it, also where the job's dataset spec says to cut it (`partition`)."""


@dataclass(kw_only=True)
class SiteTransportConf:
    """Key `transport`: where peers of other sites reach this worker, if they dial it."""

    bind: str = "127.0.0.1"
    advertise: str | None = None


@dataclass(kw_only=True)
class SiteOwnConf:
    """Key `site`."""

    dial_only: bool = False
    """Nobody can dial into this site: a job that asks its worker to listen is refused."""
    folder: str = "joined"
    """Where workers of this site keep what they keep: state, and models where one is a root."""
    join_timeout: float = 600.0
    """Seconds to reach the controller and be admitted."""


@dataclass(kw_only=True)
class ApproveConf:
    """Key `approve`: which code of a job this site runs."""

    targets: list[str] = field(default_factory=list)
    """Import paths, or `PACKAGE.*` for all of a package, beyond `flame_run.join.approve.DEFAULTS`."""
    defaults: bool = True
    """Whether those defaults hold."""
    digest: str | None = None
    """Digest of the one configuration that is approved; null: any."""


@dataclass(kw_only=True)
class SiteConf:
    """All of it."""

    python_path: list[str] = field(default_factory=lambda: ["."])
    """Folders of the site's own classes; the job's `python_path` means nothing here."""
    model: SiteModelConf = field(default_factory=SiteModelConf)
    dataset: SiteDatasetConf = field(default_factory=SiteDatasetConf)
    transport: SiteTransportConf = field(default_factory=SiteTransportConf)
    site: SiteOwnConf = field(default_factory=SiteOwnConf)
    approve: ApproveConf = field(default_factory=ApproveConf)


def compose_site(overrides: Sequence[str], file: Path | None = None) -> SiteConf:
    """The defaults, then what a YAML file says, then the overrides in Hydra's grammar.

    `${job.KEY}` and `${worker:KEY}` in `model` stay as they are: the worker's part of the plan fills them in.

    Returns:
        A `DictConfig` with the keys and types of `SiteConf`.

    Raises:
        InvalidConfig: an unknown key, a bad type, a value that cannot be.
    """
    conf = OmegaConf.structured(SiteConf)
    if file is not None:
        conf = _with_file(conf, file)
    for word in overrides:
        _override(conf, word)
    site = cast("SiteConf", conf)
    problems = list(_check(site))
    if problems:
        raise InvalidConfig(problems)
    return site


def _with_file(conf: DictConfig, file: Path) -> DictConfig:
    try:
        return cast("DictConfig", OmegaConf.merge(conf, OmegaConf.load(file)))
    except OmegaConfBaseException as error:
        raise InvalidConfig([_explain(error, conf, f"{file.name}: {error.full_key}", "")]) from error
    except (OSError, yaml.YAMLError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise InvalidConfig([Problem("--site", str(file), f"cannot be read: {reason}")]) from error


def _override(conf: DictConfig, word: str) -> None:
    override = _parsed(word)
    key, value = override.key_or_group, override.value()
    try:
        OmegaConf.update(conf, key, value, merge=True)
    except OmegaConfBaseException as error:
        raise InvalidConfig([_explain(error, conf, key, value)]) from error


def _parsed(word: str) -> Override:
    try:
        override = OverridesParser.create().parse_overrides([word])[0]
    except HydraException as error:
        raise InvalidConfig([Problem("flame-run join", word, "not an override (key=value)")]) from error
    if override.is_sweep_override() or override.is_delete():
        raise InvalidConfig([Problem("flame-run join", word, "a site gives each key one value", "key=value")])
    return override


def _explain(error: OmegaConfBaseException, conf: DictConfig, key: str, value: object) -> Problem:
    node, above = conf, "the configuration of a site"
    for part in key.rpartition(": ")[2].split("."):
        if not isinstance(node, DictConfig):
            break
        if part not in node:
            return Problem(key, value, f"{above} has no key {part!r}", nearest(part, sorted(str(name) for name in node)))
        node, above = node[part], part
    return Problem(key, value, str(error).splitlines()[0])


def _check(site: SiteConf) -> Iterator[Problem]:
    for key in ("python_path", "dataset", "transport", "site", "approve"):
        node = getattr(site, key)
        try:
            OmegaConf.to_container(node, resolve=True)
        except OmegaConfBaseException as error:
            yield Problem(error.full_key or key, "", str(error).splitlines()[0], "interpolations belong into model")
            return
    if site.dataset.url is not None and site.dataset.path is not None:
        yield Problem("dataset.path", site.dataset.path, "dataset.url says already where the data lie", "one of the two")
    elif site.dataset.path is not None and not Path(site.dataset.path).expanduser().exists():
        yield Problem("dataset.path", site.dataset.path, "there is no such file or folder")
    elif site.dataset.url is not None and (reason := check_url(site.dataset.url)):
        yield Problem("dataset.url", site.dataset.url, reason)
    if site.model.data and not isinstance(site.model.data.get("_target_"), str):
        yield Problem("model.data", dict(site.model.data), "no `_target_`", "the import path of a LightningDataModule")
    if not 0 < site.site.join_timeout < float("inf"):
        yield Problem("site.join_timeout", site.site.join_timeout, "a time in seconds must be above 0", "a number such as 600")
    missing = [folder for folder in site.python_path if not Path(folder).is_dir()]
    yield from check_trainer(dict(site.model.trainer), "model.trainer")
    yield from (Problem("python_path", folder, "there is no such folder") for folder in missing)
    yield from bad_patterns(site.approve.targets)
    digest = site.approve.digest
    if digest is not None and not DIGEST.fullmatch(digest):
        yield Problem("approve.digest", digest, "not a digest", "64 hex digits, as both sides print them")
