"""Networks of workers for the contract suite: the same calls over every transport."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from transports.base import Backend, Channel, ChannelSpec, Endpoint
from transports.grpc_channel.endpoint import GrpcEndpoint
from transports.grpc_channel.loop import LoopThread
from transports.inproc import Hub, InprocEndpoint

TOKEN = "the secret of this job"


class Network(ABC):
    """Makes endpoints that can reach each other, and closes them."""

    backend: Backend = "auto"

    def __init__(self) -> None:
        self.endpoints: list[Endpoint] = []

    @abstractmethod
    def make(self, name: str, **options: Any) -> Endpoint: ...

    def endpoint(self, name: str, **options: Any) -> Endpoint:
        endpoint = self.make(name, **options)
        self.endpoints.append(endpoint)
        return endpoint

    def host(self, endpoint: Endpoint, *ends: str, name: str = "param", group: str = "default") -> Channel:
        """The side that listens."""
        return endpoint.open(ChannelSpec(name=name, group=group, ends=ends, backend=self.backend))

    def join(self, endpoint: Endpoint, host: Endpoint, name: str = "param", group: str = "default") -> Channel:
        """The side that dials."""
        dials = frozenset({host.name})
        channel = endpoint.open(ChannelSpec(name=name, group=group, ends=(host.name,), dials=dials, backend=self.backend))
        if host.address is not None:
            endpoint.connect({host.name: host.address})
        return channel

    def star(self, *spokes: str, **options: Any) -> tuple[Channel, Mapping[str, Channel]]:
        """A hub and its spokes, all joined, with no event waiting."""
        hub = self.endpoint("hub", **options)
        center = self.host(hub, *spokes)
        channels = {spoke: self.join(self.endpoint(spoke), hub) for spoke in spokes}
        center.wait_joined(timeout=30)
        for _ in spokes:
            center.receive(timeout=0)
        for channel in channels.values():
            channel.receive(timeout=30)
        return center, channels

    def close(self) -> None:
        for endpoint in self.endpoints:
            endpoint.close()


class InprocNetwork(Network):
    def __init__(self) -> None:
        super().__init__()
        self.hub = Hub()

    def make(self, name: str, **options: Any) -> Endpoint:
        return InprocEndpoint(name, self.hub, **options)


class GrpcNetwork(Network):
    backend: Backend = "grpc"

    def __init__(self) -> None:
        super().__init__()
        self.loop = LoopThread("loop of the test")

    def make(self, name: str, **options: Any) -> Endpoint:
        return GrpcEndpoint(name, token=TOKEN, loop=self.loop, **{"join_timeout": 30.0, **options})

    def close(self) -> None:
        super().close()
        self.loop.close()


class ShmNetwork(GrpcNetwork):
    backend: Backend = "shm"


@pytest.fixture(params=[InprocNetwork, GrpcNetwork, ShmNetwork], ids=["inproc", "grpc", "shm"])
def network(request: pytest.FixtureRequest) -> Iterator[Network]:
    network: Network = request.param()
    yield network
    network.close()


@pytest.fixture
def shm() -> Iterator[Network]:
    network = ShmNetwork()
    yield network
    network.close()
