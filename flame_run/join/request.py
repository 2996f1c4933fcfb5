"""The command line of `flame-run join`, and what it leads to: who joins which job, with what."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flame_run.errors import InvalidConfig, Problem
from flame_run.join.bundle import Bundle, read_bundle
from flame_run.join.site import SiteConf, compose_site

USAGE = "flame-run join ADDRESS --worker NAME --bundle DIR [--site FILE] [--approve-digest HEX] [overrides]"
_OPTIONS = ("--worker", "--bundle", "--site", "--approve-digest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Everything that is known before the controller is asked."""

    address: str
    """`host:port` of the controller."""
    worker: str
    bundle: Bundle
    site: SiteConf


def read_request(arguments: Sequence[str]) -> Request:
    """Understand the command line and read what it names.

    Raises:
        InvalidConfig: with everything that is wrong.
    """
    options, words = _split(arguments)
    overrides = [word for word in words if "=" in word]
    addresses = [word for word in words if "=" not in word]
    if len(addresses) > 1:
        raise InvalidConfig([Problem("flame-run join", " ".join(addresses), "takes one address", USAGE)])
    if "--bundle" not in options:
        raise InvalidConfig([Problem("--bundle", "", "the folder with the token is missing", USAGE)])
    bundle = read_bundle(Path(options["--bundle"]))
    address = addresses[0] if addresses else bundle.card.address or ""
    worker = options.get("--worker") or bundle.card.worker or ""
    problems = list(_problems(address, worker, bundle))
    if problems:
        raise InvalidConfig(problems)
    if "--approve-digest" in options:
        overrides.append(f"approve.digest={options['--approve-digest']}")
    site = compose_site(overrides, Path(options["--site"]) if "--site" in options else None)
    return Request(address=address, worker=worker, bundle=bundle, site=site)


def _split(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Options (`--worker NAME` or `--worker=NAME`) and the other words."""
    options: dict[str, str] = {}
    words: list[str] = []
    rest = iter(arguments)
    for word in rest:
        name, sign, value = word.partition("=")
        if not word.startswith("-"):
            words.append(word)
            continue
        if name not in _OPTIONS:
            raise InvalidConfig([Problem("flame-run join", word, "no such option", f"legal: {', '.join(_OPTIONS)}")])
        value = value if sign else next(rest, "")
        if not value or name in options:
            raise InvalidConfig([Problem("flame-run join", word, "needs one value", USAGE)])
        options[name] = value
    return options, words


def _problems(address: str, worker: str, bundle: Bundle) -> Iterator[Problem]:
    host, _, port = address.rpartition(":")
    if not address:
        yield Problem("flame-run join", "", "the address of the controller is missing", USAGE)
    elif not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        yield Problem("flame-run join", address, "not an address", "HOST:PORT")
    if not worker:
        yield Problem("--worker", "", "the name of the worker is missing", USAGE)
    elif bundle.card.worker not in (None, worker):
        yield Problem("--worker", worker, f"the bundle is that of {bundle.card.worker}", "the bundle of this worker")
