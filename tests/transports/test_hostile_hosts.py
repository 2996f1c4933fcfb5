"""Hosts that do not keep to the rules: whoever dials them joins no stranger, and finds the rightful one afterwards."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Self

import grpc
import pytest

from tests.transports.peers import SOON, TOKEN, dialling, frame, next_left_reason, offer_frame, opened, weights
from transports import wire_pb2
from transports.base import Arrived, Joined, Left
from transports.errors import AddressError
from transports.grpc_channel import frames
from transports.grpc_channel.endpoint import GrpcEndpoint


class RawHost:
    """A listener that says whatever it likes to those who dial it."""

    def __init__(self, *said: bytes) -> None:
        self._said = said
        self._server = grpc.server(ThreadPoolExecutor(4))
        handler: Any = grpc.stream_stream_rpc_method_handler(self._exchange)
        service = grpc.method_handlers_generic_handler(frames.SERVICE, {frames.METHOD: handler})
        self._server.add_generic_rpc_handlers((service,))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def _exchange(self, heard: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        yield from self._said
        with suppress(grpc.RpcError, Exception):
            for _ in heard:
                pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(0).wait()


@pytest.mark.parametrize(
    "said",
    [
        [],
        [b""],
        [b"\xff\xff"],
        [frames.welcome("mallory")],
        [offer_frame()],
        [frame(welcome=wire_pb2.Welcome(version=9, name="hub"))],
    ],
    ids=["nothing", "no frame", "garbage", "another name", "an offer", "another version"],
)
def test_a_host_that_does_not_welcome_is_not_joined(said):
    with RawHost(*said) as host, GrpcEndpoint("a", token=TOKEN, join_timeout=0.3) as endpoint:
        channel = dialling(endpoint, host.address)
        with pytest.raises(AddressError, match="hub could not be reached"):
            channel.wait_joined(timeout=SOON)
        left = channel.receive(SOON)
        assert isinstance(left, Left)
        assert not left.final


@pytest.mark.parametrize("bad", [b"\xff\xff", offer_frame(0), bytes(2**25 + 2**18), frame(accept=wire_pb2.Accept(id=1))])
def test_a_host_that_breaks_the_rules_is_left_and_its_rightful_successor_joined(hub, bad):
    center = opened(hub)
    with GrpcEndpoint("a", token=TOKEN) as endpoint:
        with RawHost(frames.welcome("hub"), bad) as host:
            channel = dialling(endpoint, host.address)
            assert channel.receive(SOON) == Joined("param", "hub")
            assert "broke the protocol" in next_left_reason(channel)
        endpoint.connect({"hub": hub.address or ""})
        assert center.receive(SOON) == Joined("param", "a")
        delivery = center.send(weights(100_000), ["a"])
        event = channel.receive(SOON)
        while not isinstance(event, Arrived):
            event = channel.receive(SOON)
        event.offer.take(SOON)
        assert delivery.wait(SOON)["a"].accepted
        assert endpoint.refused >= 1
