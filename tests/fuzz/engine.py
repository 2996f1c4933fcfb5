"""A small fuzzer: changes inputs that are known, keeps those that reach new lines, and watches what each costs.

It is guided by coverage like AFL and libFuzzer (Zalewski 2014; Serebryany 2016), in Python alone; `--engine atheris` uses
libFuzzer itself where the package `atheris` is installed.
"""

import atexit
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parents[2]
WATCHED = tuple(str(ROOT / each) + "/" for each in ("flame_run", "roles", "transports"))
LONGEST = 1 << 16
"""Bytes of an input."""
MOST_KEPT = 4000
SPECIAL = (0, 1, 2, 7, 8, 15, 16, 31, 32, 63, 64, 127, 128, 255)
NUMBERS = (0, 1, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Something that reads bytes of others.

    `run` raises nothing, whatever the bytes: errors that it declares, it catches itself; and it takes at most `seconds` and
    `megabytes` for one input.
    """

    name: str
    run: Callable[[bytes], object]
    seeds: Sequence[bytes]
    seconds: float = 5.0
    megabytes: int = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """An input that broke a promise."""

    target: str
    data: bytes
    what: str


@dataclass(slots=True, kw_only=True)
class Report:
    """What a run came to."""

    inputs: int = 0
    kept: int = 0
    lines: int = 0
    findings: list[Finding] = field(default_factory=list)


class TooSlow(BaseException):
    """An input took longer than it may; not an `Exception`, so that nothing swallows it."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise `TooSlow` in the main thread after `seconds`."""

    def over(_: int, frame: FrameType | None) -> None:
        raise TooSlow(f"not done after {seconds:g} s" + (f", in {frame.f_code.co_qualname}" if frame else ""))

    previous = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


class Lines:
    """Notes which lines of this project are reached."""

    def __init__(self) -> None:
        self.seen: set[tuple[int, int]] = set()
        self._codes: dict[Any, bool] = {}

    def __call__(self, frame: FrameType, event: str, argument: object) -> Any:
        code = frame.f_code
        if code not in self._codes:
            self._codes[code] = code.co_filename.startswith(WATCHED)
        return self._line if self._codes[code] else None

    def _line(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "line":
            self.seen.add((id(frame.f_code), frame.f_lineno))
        return self._line


def scratch() -> Path:
    """A folder that is gone when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="flame-run-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def forget_peak() -> None:
    """Let `peak` begin at what this process has now: whatever ran in it before may have had more."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak() -> int:
    """The most memory that this process had since `forget_peak`, bytes."""
    (line,) = [line for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def problem_of(target: Target, data: bytes, lines: Lines | None = None) -> str | None:
    """Run one input; what it broke, or None."""
    forget_peak()
    before, traced = peak(), sys.gettrace()
    if lines is not None:
        sys.settrace(lines)
    try:
        with limited(target.seconds):
            target.run(data)
    except TooSlow as error:
        return f"hang: {error}"
    except Exception:  # noqa: BLE001 - any that comes out is a finding
        return f"crash: {traceback.format_exc(limit=-4)}"
    finally:
        sys.settrace(traced)
    grown = (peak() - before) >> 20
    return f"memory: {grown} MiB for {len(data)} bytes" if grown > target.megabytes else None


class Mutator:
    """Makes new inputs of old ones."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw

    def mutate(self, data: bytes, other: bytes) -> bytes:
        """A changed `data`, perhaps with pieces of `other`."""
        changed = bytearray(data)
        for _ in range(1 << self._draw.randrange(5)):
            self._draw.choice((self._flip, self._set, self._insert, self._remove, self._repeat, self._splice, self._number))(
                changed, other
            )
        return bytes(changed[:LONGEST])

    def _at(self, data: bytearray) -> int:
        return self._draw.randrange(len(data) + 1)

    def _flip(self, data: bytearray, _: bytes) -> None:
        if data:
            data[self._draw.randrange(len(data))] ^= 1 << self._draw.randrange(8)

    def _set(self, data: bytearray, _: bytes) -> None:
        if data:
            data[self._draw.randrange(len(data))] = self._draw.choice(SPECIAL)

    def _insert(self, data: bytearray, _: bytes) -> None:
        at = self._at(data)
        data[at:at] = self._draw.randbytes(self._draw.randrange(1, 9))

    def _remove(self, data: bytearray, _: bytes) -> None:
        at = self._at(data)
        del data[at : at + self._draw.randrange(1, 17)]

    def _repeat(self, data: bytearray, _: bytes) -> None:
        at = self._at(data)
        piece = bytes(data[at : at + self._draw.randrange(1, 65)])
        data[at:at] = piece * self._draw.choice((1, 2, 10, 200))

    def _splice(self, data: bytearray, other: bytes) -> None:
        at, of = self._at(data), self._draw.randrange(len(other) + 1)
        data[at : at + self._draw.choice((0, 8, 64, LONGEST))] = other[of : of + self._draw.randrange(1, 257)]

    def _number(self, data: bytearray, _: bytes) -> None:
        at, number = self._at(data), self._draw.choice(NUMBERS)
        written = (varint(number), number.to_bytes(8, "little"), str(number).encode(), number.to_bytes(8, "big")[-4:])
        data[at : at + self._draw.choice((0, 1, 4))] = self._draw.choice(written)


def varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def fuzz(target: Target, *, seed: int, inputs: int | None = None, seconds: float | None = None) -> Report:
    """Feed `target` until so many inputs or seconds have passed, or three findings.

    Args:
        target: what is fuzzed.
        seed: of everything that is drawn.
        inputs: how many at most.
        seconds: for how long.
    """
    draw, lines, report = random.Random(seed), Lines(), Report()
    mutator, corpus = Mutator(draw), list(dict.fromkeys(target.seeds)) or [b""]
    end = None if seconds is None else time.monotonic() + seconds
    waiting = list(corpus)
    while len(report.findings) < 3:  # more of the same tell nothing
        if (inputs is not None and report.inputs >= inputs) or (end is not None and time.monotonic() >= end):
            break
        data = waiting.pop() if waiting else mutator.mutate(draw.choice(corpus), draw.choice(corpus))
        before = len(lines.seen)
        what = problem_of(target, data, lines)
        report.inputs += 1
        if what is not None:
            report.findings.append(Finding(target=target.name, data=data, what=what))
        elif len(lines.seen) > before and data not in corpus and len(corpus) < MOST_KEPT:
            corpus.append(data)
    report.kept, report.lines = len(corpus), len(lines.seen)
    return report
