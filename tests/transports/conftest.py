"""Networks of workers for the contract suite: the same calls over every transport."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.transports.cable import Cable
from transports.base import Backend, Channel, ChannelSpec, Endpoint
from transports.faulty import FaultyHub
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
        endpoint.connect({host.name: self.way(host)})
        return channel

    def cabled(self, host: Endpoint) -> None:  # noqa: B027 - nothing to do where there are no cables
        """Prepare `host` for `part`, before others join it."""

    def way(self, host: Endpoint) -> str:
        """Where those dial `host` who are connected from now on."""
        return host.address or f"{self.endpoints.index(host)} of this process"

    @abstractmethod
    def part(self, host: Endpoint, *others: Endpoint) -> None:
        """Break the connections of `host` with `others`, who came by its way; they stay apart."""

    @abstractmethod
    def reunite(self, host: Endpoint, *others: Endpoint) -> None:
        """Let them connect again."""

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
        options.pop("heartbeat", None)
        return InprocEndpoint(name, self.hub, **options)

    def part(self, host: Endpoint, *others: Endpoint) -> None:
        for other in others:
            self.hub.sever(host.name, other.name)

    def reunite(self, host: Endpoint, *others: Endpoint) -> None:
        for other in others:
            self.hub.mend(host.name, other.name)


class FaultyNetwork(InprocNetwork):
    """As long as nothing is planned, nothing goes wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.hub = FaultyHub()


class GrpcNetwork(Network):
    backend: Backend = "grpc"

    def __init__(self) -> None:
        super().__init__()
        self.loop = LoopThread("loop of the test")
        self.cables: dict[str, Cable] = {}

    def make(self, name: str, **options: Any) -> Endpoint:
        return GrpcEndpoint(name, token=TOKEN, loop=self.loop, **{"join_timeout": 30.0, **options})

    def cabled(self, host: Endpoint) -> None:
        self.cables[host.name] = Cable(super().way(host))

    def way(self, host: Endpoint) -> str:
        return self.cables[host.name].address if host.name in self.cables else super().way(host)

    def part(self, host: Endpoint, *others: Endpoint) -> None:
        del others
        self.cables[host.name].cut()

    def reunite(self, host: Endpoint, *others: Endpoint) -> None:
        del others
        self.cables[host.name].mend()

    def close(self) -> None:
        super().close()
        for cable in self.cables.values():
            cable.close()
        self.loop.close()


class ShmNetwork(GrpcNetwork):
    backend: Backend = "shm"


@pytest.fixture(params=[InprocNetwork, FaultyNetwork, GrpcNetwork, ShmNetwork], ids=["inproc", "faulty", "grpc", "shm"])
def network(request: pytest.FixtureRequest) -> Iterator[Network]:
    network: Network = request.param()
    yield network
    network.close()


@pytest.fixture
def own_host() -> str:
    """An address of this machine that no other process uses: a port of it that is given up is taken by nobody."""
    high, low = divmod(os.getpid(), 256)
    return f"127.{77 + high // 256 % 100}.{high % 256}.{low}"


@pytest.fixture
def hub() -> Iterator[GrpcEndpoint]:
    with GrpcEndpoint("hub", token=TOKEN, join_timeout=30.0) as endpoint:
        yield endpoint


@pytest.fixture
def shm() -> Iterator[Network]:
    network = ShmNetwork()
    yield network
    network.close()
