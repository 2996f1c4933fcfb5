"""The verb `flame-run certs`: makes, lists, renews and revokes the certificates of a job."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from omegaconf import DictConfig

from flame_run.errors import InvalidConfig, Problem
from flame_run.security.names import CONTROLLER
from flame_run.security.store import Store, table

EVERYBODY = "all"
_USAGE = "flame-run certs DIR [overrides] [--days N], or flame-run certs DIR --list | --renew NAME [--days N] | --revoke NAME"
_LONGEST = 3650


@dataclass(slots=True)
class Request:
    """The words of the command line."""

    folder: Path
    days: float = 365.0
    list_only: bool = False
    renew: list[str] = field(default_factory=list)
    revoke: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)


def certs(arguments: Sequence[str]) -> str:
    """Do what the words of the command line ask for; returns what to print.

    Raises:
        InvalidConfig: words that make no sense, or a job that is invalid.
        SecurityError: the folder, or a name in it, is not what it should be.
    """
    request = read_request(arguments)
    store = Store(request.folder)
    lifetime = timedelta(days=request.days)
    # Revoked before renewed: both for one name mean that its old certificates end and it gets a new one.
    if request.revoke:
        store.revoke(_names(request.revoke, store))
    if request.renew:
        store.renew(_names(request.renew, store), lifetime)
    if not (request.revoke or request.renew or request.list_only):
        _make(store, request.overrides, lifetime)
    return table(store.entries if request.list_only else store.current().values())


def read_request(arguments: Sequence[str]) -> Request:
    """Parse the words of the command line.

    Raises:
        InvalidConfig: a word that makes no sense.
    """
    words = list(arguments)
    request = Request(Path())
    rest: list[str] = []
    while words:
        word = words.pop(0)
        if word == "--list":
            request.list_only = True
        elif word in ("--days", "--renew", "--revoke"):
            if not words:
                raise _wrong(word, f"needs a value: {_USAGE}")
            value = words.pop(0)
            if word == "--days":
                request.days = _days(value)
            else:
                (request.renew if word == "--renew" else request.revoke).append(value)
        else:
            rest.append(word)
    if not rest or rest[0].startswith("-") or "=" in rest[0]:
        raise _wrong(" ".join(arguments), f"the folder for the certificates comes first: {_USAGE}")
    request.folder, request.overrides = Path(rest[0]), rest[1:]
    if request.overrides and (request.list_only or request.renew or request.revoke):
        raise _wrong(
            " ".join(request.overrides), "overrides belong to the making of certificates, not to --list, --renew and --revoke"
        )
    return request


def _make(store: Store, overrides: Sequence[str], lifetime: timedelta) -> None:
    """Make a certificate for the controller and for each worker of the job that has none that is good."""
    from flame_run.config.app import call_with_config  # noqa: PLC0415 - Hydra only where a job is read
    from flame_run.run.checks import plan_of  # noqa: PLC0415

    if {"-m", "--multirun"} & set(overrides):
        raise _wrong("-m", "certificates are of one job; leave -m out")

    def make(cfg: DictConfig) -> None:
        plan = plan_of(cfg)
        store.create(plan.job_name)
        current, now = store.current(), datetime.now(UTC)
        for role, name in ((CONTROLLER, CONTROLLER), *((worker.role, worker.name) for worker in plan.workers)):
            if name not in current or current[name].state(now) == "expired":
                store.issue(role, name, lifetime)

    nothing_written = ["hydra.output_subdir=null", "hydra.run.dir=.", "hydra/job_logging=none", "hydra/hydra_logging=none"]
    call_with_config(make, overrides, nothing_written)


def _names(wanted: Sequence[str], store: Store) -> list[str]:
    return list(store.current()) if EVERYBODY in wanted else list(wanted)


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = 0.0
    if not 0 < days <= _LONGEST:
        raise _wrong(f"--days {text}", f"must be a number above 0, at most {_LONGEST}")
    return days


def _wrong(what: str, reason: str) -> InvalidConfig:
    return InvalidConfig([Problem("flame-run certs", what, reason)])
