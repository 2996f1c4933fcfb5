"""What Hydra and OmegaConf refuse, said as one of our own problems: where, what, why, what is legal."""

import difflib
import re
from collections.abc import Sequence
from typing import Any

import yaml
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from flame_run.config.folder import groups, options
from flame_run.errors import InvalidConfig, Problem

HydraRefusal = (HydraException, OmegaConfBaseException)


def nearest(word: str, legal: Sequence[str]) -> str:
    """The legal words, with the one that was probably meant."""
    close = difflib.get_close_matches(word, legal, n=1, cutoff=0.5)
    guess = f"did you mean {close[0]!r}? " if close else ""
    return f"{guess}legal: {', '.join(legal)}" if legal else guess


def explain(error: Exception, overrides: Sequence[str], defaults: DictConfig | None) -> InvalidConfig:
    """The problem behind an exception that was raised while composing.

    Args:
        error: what Hydra raised.
        overrides: the words of the command line.
        defaults: the configuration without overrides, for legal keys; None where even that cannot be composed.
    """
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return InvalidConfig([_missing_option(error)])
    if isinstance(error, OverrideParseException):
        return InvalidConfig([_unparsed(str(error.override), error)])
    cause = error.__cause__ if isinstance(error, ConfigCompositionException) and error.__cause__ else error
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return InvalidConfig([_bad_key(cause, overrides, defaults)])
    swept = re.match(r"Ambiguous value for argument '([^=]+)=(.*)'", _first_line(error))
    if swept is not None:
        reason, legal = "several values, and this is one run", f"flame-run -m ... for a run of each, or a list: [{swept[2]}]"
        return InvalidConfig([Problem(swept[1], swept[2], reason, legal)])
    key = re.search(r"Could not override '([^']+)'", str(error))
    if key is not None:
        return InvalidConfig([_unknown_key(key[1], overrides, defaults)])
    return InvalidConfig([Problem("configuration", " ".join(overrides), _first_line(error))])


def _unparsed(word: str, error: OverrideParseException) -> Problem:
    place = f"command line: {word}"
    if "=" in word:
        return Problem(place, word, _first_line(error))
    close = difflib.get_close_matches(word, options("experiment"), n=1, cutoff=0.5)
    guess = f"did you mean experiment={close[0]}? " if close else ""
    return Problem(place, word, "not an override (key=value)", f"{guess}flame-run --help")


def _missing_option(error: MissingConfigException) -> Problem:
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    legal = list(error.options or ())
    if not group:
        return Problem("configuration", option, _first_line(error), nearest(option, legal))
    return Problem(group, option, f"the group {group!r} has no such option", nearest(option, legal))


def _bad_key(cause: OmegaConfBaseException, overrides: Sequence[str], defaults: DictConfig | None) -> Problem:
    key = cause.full_key or ""
    if "is not in struct" in str(cause) or "not in '" in str(cause):
        return _unknown_key(key, overrides, defaults)
    return Problem(key, _given(key, overrides), _first_line(cause))


def _unknown_key(key: str, overrides: Sequence[str], defaults: DictConfig | None) -> Problem:
    parent, _, last = key.rpartition(".")
    node: Any = defaults
    if defaults is not None and parent:
        node = OmegaConf.select(defaults, parent, throw_on_missing=False)
    legal = sorted(str(name) for name in node) if isinstance(node, DictConfig) else []
    if not parent:
        legal = sorted({*legal, *groups()})
    place = f"{parent}." if parent else "the configuration "
    return Problem(
        key,
        _given(key, overrides),
        f"{place.rstrip('. ')} has no key {last!r}; a new one is added with +{key}=...",
        nearest(last, legal),
    )


def _given(key: str, overrides: Sequence[str]) -> str:
    """The value that the command line gives `key`, as typed."""
    for override in overrides:
        name, sign, value = override.lstrip("+~").partition("=")
        if sign and name.split("@")[0] == key:
            return value
    return ""


def _first_line(error: BaseException) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(":"):
        return f"{lines[0]} {lines[1]}"
    return lines[0] if lines else type(error).__name__
