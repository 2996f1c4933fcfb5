"""Workers for tests of what only a network has, and a client that says whatever it likes."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Self

import grpc
import torch

from transports import wire_pb2
from transports.base import Arrived, Channel, ChannelSpec, Joined, Left, Limits, Offer
from transports.errors import TransportError
from transports.grpc_channel import frames
from transports.grpc_channel.endpoint import GrpcEndpoint
from transports.grpc_channel.host import Hello
from transports.header import encode_header
from transports.message import Header, Message

SOON = 30.0
TOKEN = "the secret of this job"


def opened(hub: GrpcEndpoint, *ends: str) -> Channel:
    return hub.open(ChannelSpec(name="param", group="default", ends=ends or ("a",), backend="grpc"))


def dialling(endpoint: GrpcEndpoint, address: str | None, group: str = "default") -> Channel:
    channel = endpoint.open(ChannelSpec(name="param", group=group, ends=("hub",), dials=frozenset({"hub"})))
    assert address is not None
    endpoint.connect({"hub": address})
    return channel


def weights(floats: int = 10) -> Message:
    return Message("update", 1, groups={"g": {"w": torch.arange(floats, dtype=torch.float32)}})


def next_offer(channel: Channel) -> Offer:
    event = channel.receive(SOON)
    assert isinstance(event, Arrived)
    return event.offer


def next_left_reason(center: Channel) -> str:
    event = center.receive(SOON)
    while not isinstance(event, Left):
        event = center.receive(SOON)
    assert (event.clean, event.final) == (False, False)
    return event.reason


def still_works(hub: GrpcEndpoint, center: Channel, name: str = "b") -> None:
    """The job goes on: a rightful worker joins and exchanges a message."""
    with GrpcEndpoint(name, token=TOKEN) as good:
        channel = dialling(good, hub.address)
        channel.wait_joined(timeout=SOON)
        delivery = channel.send(weights(100_000), ["hub"])
        event = center.receive(SOON)
        while not isinstance(event, Arrived) or event.end != name:
            event = center.receive(SOON)
        event.offer.take(SOON)
        assert delivery.wait(SOON)["hub"].accepted


def raw_stream(wire: Any) -> Any:
    return wire.stream_stream(f"/{frames.SERVICE}/{frames.METHOD}")


class RawClient:
    """Speaks gRPC, and whatever bytes it likes."""

    def __init__(self, address: str | None, **hello: Any) -> None:
        said = {"token": TOKEN.encode(), "version": "1", "channel": "param", "group": "default", "name": "a", **hello}
        assert address is not None
        self.wire: Any = grpc.insecure_channel(address)
        self.queue: SimpleQueue[bytes | None] = SimpleQueue()
        self.call = raw_stream(self.wire)(self._frames(), metadata=Hello(**said).metadata())

    def _frames(self) -> Iterator[bytes]:
        while (message := self.queue.get(timeout=SOON)) is not None:
            yield message

    def send(self, *messages: bytes) -> None:
        for message in messages:
            self.queue.put(message)

    def receive(self) -> wire_pb2.Frame:
        return wire_pb2.Frame.FromString(next(self.call))

    def status(self) -> tuple[grpc.StatusCode, str]:
        """How the stream ended."""
        with suppress(grpc.RpcError):
            for _ in self.call:
                pass
        return self.call.code(), self.call.details()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.queue.put(None)
        self.wire.close()


def offer_frame(number: int = 1, header: bytes | None = None, **more: Any) -> bytes:
    return wire_pb2.Frame(offer=wire_pb2.Offer(id=number, header=header or header_bytes(), **more)).SerializeToString()


def header_bytes(sender: str = "a", nbytes_of: int = 0) -> bytes:
    message = Message("update", 1, groups={"g": {"w": torch.empty(nbytes_of, dtype=torch.uint8)}} if nbytes_of else {})
    header = Header(kind="update", round=1, sender=sender, specs=message.specs, nbytes=nbytes_of)
    return encode_header(header, Limits())


def frame(**body: Any) -> bytes:
    return wire_pb2.Frame(**body).SerializeToString()


class Traffic:
    """A worker that exchanges messages with `hub`, on a channel of their own, for as long as the context lasts.

    Leaving it checks that the exchange went on to the end, and that each byte came back as it was sent.
    """

    def __init__(self, hub: GrpcEndpoint) -> None:
        self._worker = GrpcEndpoint("worker", token=TOKEN, checksum="always")
        spec = ChannelSpec(name="work", group="default", ends=("worker",), backend="grpc")
        self._center = hub.open(spec)
        self._spoke = self._worker.open(
            ChannelSpec(name="work", group="default", ends=(hub.name,), dials=frozenset({hub.name}), backend="grpc")
        )
        self._worker.connect({hub.name: hub.listen()})
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            number = 0
            while not self._stop.is_set():
                number += 1
                self._exchange(number)
            self._exchange(number + 1)
        except (TransportError, AssertionError) as error:
            self._errors.append(error)

    def _exchange(self, number: int) -> None:
        sent = torch.arange(number, number + 100_000, dtype=torch.int64)
        down = self._center.send(Message("weights", number, groups={"g": {"w": sent}}), ["worker"])
        got = next_offer(self._spoke).take(SOON)
        up = self._spoke.send(got.relabel(kind="update"), ["hub"])
        back = next_offer(self._center).take(SOON)
        assert (back.kind, back.round) == ("update", number)
        assert torch.equal(back.groups["g"]["w"], sent)
        assert down.wait(SOON)["worker"].accepted
        assert up.wait(SOON)["hub"].accepted

    def __enter__(self) -> Self:
        assert isinstance(self._center.receive(SOON), Joined)
        assert isinstance(self._spoke.receive(SOON), Joined)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._worker.close()
        assert not self._errors, self._errors
