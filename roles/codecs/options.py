"""What a configuration may say of codecs, per channel and direction: read and checked here, free of torch.

A channel is given one of these, for both directions or for each:

    bf16                                    a name
    {name: int8, block: 64}                 a name with parameters
    [delta, topk, bf16]                     several, one after the other
    {upload: [delta, int8], distribute: bf16}
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

UPLOAD: Final = "upload"
DISTRIBUTE: Final = "distribute"
DIRECTIONS: Final = (UPLOAD, DISTRIBUTE)
"""Each is also the tag of the function that sends this way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A number that a codec takes, within [least, most]."""

    default: float
    least: float
    most: float
    whole: bool
    """Whether it must be an integer."""

    def accepts(self, value: object) -> bool:
        """Whether `value` is legal."""
        number = isinstance(value, int if self.whole else int | float) and not isinstance(value, bool)
        return number and self.least <= value <= self.most  # type: ignore[operator]  # it is a number by now

    @property
    def legal(self) -> str:
        """The range in words."""
        least, most = (f"{int(each)}" if self.whole else f"{each:g}" for each in (self.least, self.most))
        return f"{'an integer' if self.whole else 'a number'} from {least} to {most}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What is known of a codec by its name."""

    place: int
    """Where it stands among several: those with a lower number come first, and one of each number at most."""
    distributes: bool
    """Whether a model can be sent down with it."""
    parameters: Mapping[str, Parameter] = field(default_factory=dict)


KINDS: Final[Mapping[str, Kind]] = {
    "delta": Kind(place=0, distributes=False),
    "topk": Kind(
        place=1,
        distributes=False,
        parameters={"fraction": Parameter(default=0.1, least=1e-6, most=0.49, whole=False)},
    ),
    "bf16": Kind(place=2, distributes=True),
    "fp16": Kind(place=2, distributes=True),
    "int8": Kind(
        place=2,
        distributes=True,
        parameters={"block": Parameter(default=256, least=8, most=2**20, whole=True)},
    ),
}
"""Every codec by name. `roles.codecs.make` builds them."""


@dataclass(frozen=True, slots=True)
class CodecOptions:
    """One codec with a value for each of its parameters."""

    name: str
    parameters: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelCodecs:
    """The codecs of a channel, in the order in which they are applied; none: tensors travel as they are."""

    upload: tuple[CodecOptions, ...] = ()
    distribute: tuple[CodecOptions, ...] = ()


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: where, what, why, and the legal names or words."""

    place: str
    value: object
    reason: str
    legal: tuple[str, ...] | str
    word: object = None
    """What should have been one of the legal names, where that is not the value."""


def read_channel(value: Any, place: str, faults: list[Fault]) -> ChannelCodecs:
    """The codecs that `value` asks for; what is wrong with it is added to `faults` and left out."""
    if isinstance(value, Mapping) and "name" not in value:
        strange = [key for key in value if key not in DIRECTIONS]
        faults += [Fault(f"{place}.{key}", value[key], "a channel has no such direction", DIRECTIONS, key) for key in strange]
        given = {key: value[key] for key in DIRECTIONS if key in value}
        return ChannelCodecs(**{key: read_direction(each, f"{place}.{key}", key, faults) for key, each in given.items()})
    # What is wrong both ways is said once.
    down = read_direction(value, place, DISTRIBUTE, faults)
    return ChannelCodecs(upload=read_direction(value, place, UPLOAD, []), distribute=down)


def read_direction(value: Any, place: str, direction: str, faults: list[Fault]) -> tuple[CodecOptions, ...]:
    """The codecs of one direction, in order; `topk` gets the `delta` that it implies."""
    if value is None:
        return ()
    several = isinstance(value, Sequence) and not isinstance(value, str)
    given = [(f"{place}[{at}]", each) for at, each in enumerate(value)] if several else [(place, value)]
    codecs = []
    for where, each in given:
        options = _read_one(each, where, faults)
        if options is not None:
            codecs.append(options)
            if direction == DISTRIBUTE and not KINDS[options.name].distributes:
                reason = f"only uploads can be sent as {options.name}: it needs the model that was received before"
                faults.append(Fault(where, options.name, reason, _for_one_direction(options.name)))
    places = [KINDS[options.name].place for options in codecs]
    if any(later <= earlier for earlier, later in pairwise(places)):
        names = [options.name for options in codecs]
        faults.append(Fault(place, names, "these do not follow each other", "delta, then topk, then one of bf16, fp16, int8"))
    implied = [CodecOptions("delta", {})] if KINDS["topk"].place in places and KINDS["delta"].place not in places else []
    return (*implied, *codecs)


def _for_one_direction(name: str) -> str:
    legal = [each for each, kind in KINDS.items() if kind.distributes]
    return f"legal: {', '.join(legal)}; or {{{UPLOAD}: {name}}}"


def _read_one(value: Any, place: str, faults: list[Fault]) -> CodecOptions | None:
    """One codec, by its name or as a map with `name`."""
    given: Mapping[Any, Any] = value if isinstance(value, Mapping) else {"name": value}
    name = given.get("name")
    if not isinstance(name, str) or name not in KINDS:
        faults.append(Fault(place, value if "name" not in given else name, "there is no such codec", tuple(KINDS)))
        return None
    known = KINDS[name].parameters
    parameters = {key: parameter.default for key, parameter in known.items()}
    for key, number in given.items():
        if key == "name":
            continue
        if key not in known:
            faults.append(Fault(f"{place}.{key}", number, f"{name} has no such parameter", tuple(known) or "it has none", key))
        elif not known[key].accepts(number):
            faults.append(Fault(f"{place}.{key}", number, f"{name} cannot work with this", known[key].legal))
        else:
            parameters[key] = number
    return CodecOptions(name, parameters)
