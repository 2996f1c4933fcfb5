"""Feeds the stream and the parsers with anything for as long as it is told, and prints counts.

Run from the root of the repository: `python -m tests.transports.fuzz_long [SECONDS] [SEED]`. Ends with status 1 and the
seed at the first thing that should not happen.
"""

import asyncio
import sys
import time
from contextlib import suppress
from random import Random

from tests.transports.test_hostile_fuzz import LIMITS, Situation, header_of
from transports.base import Outcome
from transports.errors import ProtocolError
from transports.grpc_channel import frames
from transports.header import parse_header


def spoiled(dice: Random, data: bytes) -> bytes:
    """`data` with some bytes changed, cut or repeated."""
    found = bytearray(data)
    for _ in range(dice.randint(0, 4)):
        if found:
            found[dice.randrange(len(found))] = dice.randrange(256)
    start, stop = sorted((dice.randrange(len(found) + 1), dice.randrange(len(found) + 1)))
    return bytes(dice.choice([found, found[:stop], found + found[start:stop], dice.randbytes(dice.randrange(200))]))


def once(seed: int) -> None:
    """One stream and some headers and frames.

    Raises:
        AssertionError: something was read that is beyond the limits, or not settled.
    """
    dice = Random(seed)
    with suppress(ProtocolError):
        header = parse_header(spoiled(dice, header_of(dice.choice([0, 1, 100, 4096]))), LIMITS)
        assert header.nbytes <= LIMITS.max_message_bytes
    noise = [spoiled(dice, frames.answer(dice.randrange(5), Outcome("refused", "no"))) for _ in range(3)]
    for data in noise:
        with suppress(ProtocolError):
            frames.parse_frame(data, LIMITS)
    situation = Situation(dice, noise)
    asyncio.run(situation.link.run())
    situation.receive()
    assert not situation.link.reason.startswith("failed here"), situation.link.reason
    assert situation.owner.pool.largest <= LIMITS.max_message_bytes
    assert all(outcome is not None for outcome in situation.outcomes())


def main() -> None:
    """Run until the time is over."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    seed = first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            once(seed)
        except Exception:
            print(f"seed {seed} failed", file=sys.stderr)
            raise
        seed += 1
    print(f"{seed - first} streams from seed {first} on, nothing found")


if __name__ == "__main__":
    main()
