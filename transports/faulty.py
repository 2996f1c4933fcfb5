"""A network of one process that goes wrong as planned, for tests of everything above it.

`FaultyHub` takes the place of `transports.inproc.Hub`: the endpoints are those of that module. Its plan decides for each
message, by channel, sender, receiver and number, what becomes of it. Nothing depends on time: what is held back goes on
when the test says so (`release`), or when every worker of the hub waits and nothing else can happen any more.
"""

import hashlib
import zlib
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Literal, Protocol, get_args

from typing_extensions import override

from transports.base import Gate, Limits, Outcome
from transports.errors import ProtocolError
from transports.header import encode_header
from transports.inproc import Hub, InprocChannel, InprocOffer, Parcel
from transports.mailbox import OpenGate

FaultKind = Literal[
    "delay",
    "drop",
    "duplicate",
    "reorder",
    "corrupt",
    "corrupt_offer",
    "break_before_offer",
    "break_after_offer",
    "break_before_fetch",
    "break_after_fetch",
    "break_before_accept",
    "break_after_accept",
]
"""What becomes of a message.

- `delay`: it and those behind it are held until they are released.
- `drop`: it never arrives; its sender learns of that only when the connection breaks.
- `duplicate`: it is offered twice.
- `reorder`: it is held until the next one to the same end has passed.
- `corrupt`: a bit of its payload is turned over on the way, which is found when it is fetched.
- `corrupt_offer`: a bit of its header is turned over on the way, or of a payload that comes with it. Nobody can say what it
  was, so that the connection breaks. The same becomes of `corrupt` where there is no payload.
- `break_...`: the connection breaks at that moment. Before `accept` the receiver has taken a message that is lost for
  its sender.
"""
KINDS: tuple[FaultKind, ...] = get_args(FaultKind)
BREAKS: tuple[FaultKind, ...] = tuple(kind for kind in KINDS if kind.startswith("break"))


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong."""

    kind: FaultKind
    mend: bool = True
    """Whether a connection that broke is back at once; otherwise after `Hub.mend`."""


@dataclass(frozen=True, slots=True)
class Place:
    """A message: the `number`-th, from 1, of `sender` to `end` on `channel`, over all their connections."""

    channel: str
    sender: str
    end: str
    number: int


class Plan(Protocol):
    """Decides what goes wrong."""

    def fault(self, place: Place) -> Fault | None:
        """What becomes of the message at `place`; None: it arrives. The same answer whenever it is asked."""


@dataclass(frozen=True, slots=True)
class Script:
    """A plan that names every fault."""

    faults: Mapping[Place, Fault] = field(default_factory=dict)

    def fault(self, place: Place) -> Fault | None:
        """See `Plan`."""
        return self.faults.get(place)


@dataclass(frozen=True, slots=True)
class Chance:
    """A plan drawn by lot: the same for the same seed, whatever the order in which threads run.

    Args:
        seed: of the lots.
        rate: share of the messages to which something happens, from 0 to 1.
        kinds: what may happen. A message that is dropped is answered by nobody, so that is left out.
        most: number of a pair's message after which nothing happens any more, so that a job ends.
    """

    seed: int
    rate: float
    kinds: Sequence[FaultKind] = tuple(kind for kind in KINDS if kind != "drop")
    most: int | None = None

    def fault(self, place: Place) -> Fault | None:
        """See `Plan`."""
        if self.most is not None and place.number > self.most:
            return None
        text = f"{self.seed}/{place.channel}/{place.sender}/{place.end}/{place.number}"
        lot = Random(hashlib.sha256(text.encode()).digest())  # noqa: S311 - a test's dice
        return Fault(lot.choice(self.kinds)) if lot.random() < self.rate else None


class _Offer(InprocOffer):
    """An offer to which something happens."""

    def __init__(self, parcel: Parcel, receiver: InprocChannel, sender: InprocChannel, fault: Fault | None = None) -> None:
        super().__init__(parcel, receiver, sender)
        self.fault = fault

    @property
    def kind(self) -> FaultKind | None:
        """What happens to it."""
        return self.fault.kind if self.fault is not None else None

    @property
    def lost(self) -> bool:
        """Whether the connection broke since it was made, or it was answered."""
        return id(self) not in self.sender.offered[self.receiver.owner]


class FaultyHub(Hub):
    """A network that goes wrong as `plan` says.

    Args:
        plan: what goes wrong; default nothing.
    """

    def __init__(self, plan: Plan | None = None) -> None:
        super().__init__()
        self.plan = plan or Script()
        self.happened: list[tuple[Place, Fault]] = []
        """The faults so far, in the order of their messages."""
        self._numbers: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        self._held: dict[tuple[str, str, str], deque[_Offer]] = {}
        self._swapped: dict[tuple[str, str, str], _Offer] = {}
        self._waiting: defaultdict[str, int] = defaultdict(int)

    # ---- what is held back

    @property
    def held(self) -> int:
        """Number of messages that are held back."""
        with self.lock:
            return sum(len(offers) for offers in self._held.values()) + len(self._swapped)

    def release(self) -> None:
        """Let everything go on that is held back, oldest first."""
        with self.lock:
            held, self._held = self._held, {}
            swapped, self._swapped = self._swapped, {}
            for offers in (*held.values(), swapped.values()):
                for offer in offers:
                    self._arrive(offer)

    @override
    def gate(self, worker: str, gate: Gate | None) -> Gate:
        return _Watch(self, worker, gate or OpenGate())

    @contextmanager
    def waits(self, worker: str) -> Iterator[None]:
        """A context in which `worker` waits."""
        with self.lock:
            self._waiting[worker] += 1
            if all(self._waiting[name] for _, _, name in self._channels):
                self.release()
        try:
            yield
        finally:
            with self.lock:
                self._waiting[worker] -= 1

    # ---- the way of a message

    @override
    def offer(self, parcel: Parcel, sender: InprocChannel, receiver: InprocChannel) -> None:
        line = sender.spec.name, sender.owner, receiver.owner
        self._numbers[line] += 1
        place = Place(*line, self._numbers[line])
        offer = _Offer(parcel, receiver, sender, self.plan.fault(place))
        # Lost with the connection, also while it is held back.
        sender.offered[receiver.owner][id(offer)] = offer
        if offer.fault is not None:
            self.happened.append((place, offer.fault))
        if line in self._held or offer.kind == "delay":
            self._held.setdefault(line, deque()).append(offer)
        elif offer.kind == "reorder" and line not in self._swapped:
            self._swapped[line] = offer
        else:
            self._arrive(offer)
            if (late := self._swapped.pop(line, None)) is not None:
                self._arrive(late)

    def _arrive(self, offer: _Offer) -> None:
        if offer.lost or offer.kind == "drop":
            return
        if offer.kind == "corrupt_offer" or (offer.kind == "corrupt" and not offer.header.nbytes):
            expected, found = _turned_over(encode_header(offer.header, Limits()))
            offer.receiver.count_refused()
            self._cut(offer, f"an offer whose checksum is {found:08x}, not {expected:08x}")
            return
        self._break(offer, "break_before_offer")
        if offer.lost:
            return
        offer.sender.hand_over(offer)
        self._break(offer, "break_after_offer")
        if offer.kind == "duplicate":
            # Its sender may use the memory again once the first one is answered; a network has its own.
            offer.parcel.payload.pin()
            offer.sender.hand_over(_Offer(offer.parcel, offer.receiver, offer.sender))

    @override
    def transfer(self, offer: InprocOffer) -> None:
        assert isinstance(offer, _Offer)
        with self.lock:
            self._break(offer, "break_before_fetch")
            if offer.lost:
                return
            if offer.kind == "corrupt":
                self._reject(offer, offer.parcel.payload.buffer.numpy().tobytes())
                return
            super().transfer(offer)
            self._break(offer, "break_after_fetch")

    @override
    def answer(self, offer: InprocOffer, outcome: Outcome) -> None:
        assert isinstance(offer, _Offer)
        with self.lock:
            self._break(offer, "break_before_accept")
            super().answer(offer, outcome)
            self._break(offer, "break_after_accept")

    def _break(self, offer: _Offer, moment: FaultKind) -> None:
        fault = offer.fault
        if fault is None or fault.kind != moment:
            return
        self._cut(offer, moment)

    def _cut(self, offer: _Offer, why: str) -> None:
        fault, offer.fault = offer.fault, None
        name, sender, end = offer.channel.spec.name, offer.sender.owner, offer.receiver.owner
        if offer.sender.peers.get(end) is offer.receiver:
            self.sever(sender, end, f"its connection broke, as planned: {why}", channel=name)
            if fault is not None and fault.mend:
                self.mend(sender, end, channel=name)

    def _reject(self, offer: _Offer, sent: bytes) -> None:
        expected, found = _turned_over(sent)
        error = ProtocolError(f"{offer}: corrupt, its checksum is {found:08x}, not {expected:08x}")
        offer.receiver.count_refused()
        offer.fail(error)
        offer.refuse(str(error))


class _Watch:
    """The gate of a worker whose waits are noted."""

    def __init__(self, hub: FaultyHub, worker: str, gate: Gate) -> None:
        self._hub = hub
        self._worker = worker
        self._gate = gate

    @contextmanager
    def released(self) -> Iterator[None]:
        """See `Gate`."""
        with self._hub.waits(self._worker), self._gate.released():
            yield


def _turned_over(data: bytes) -> tuple[int, int]:
    """Checksums of `data` as it was and with one bit turned over."""
    spoiled = bytearray(data)
    spoiled[len(data) // 2] ^= 1
    return zlib.crc32(data), zlib.crc32(spoiled)
