"""Processes on two machines, as far as the kernel of one can make two: network namespaces with a link between them.

Needs root, `ip` and `tc`; skipped where these are missing or not allowed.
"""

import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

import pytest

SOON = 60.0
PEER = """
import sys
import torch
from transports.base import Arrived, ChannelSpec, Joined, Left
from transports.errors import TransportError
from transports.grpc_channel.endpoint import GrpcEndpoint
from transports.message import Message

name, address, heartbeat = sys.argv[1], sys.argv[2], float(sys.argv[3])
is_hub = name == "hub"
end = "worker" if is_hub else "hub"
endpoint = GrpcEndpoint(name, token="secret", bind=address if is_hub else "127.0.0.1:0", heartbeat=heartbeat)
dials = frozenset() if is_hub else frozenset({end})
channel = endpoint.open(ChannelSpec(name="param", group="default", ends=(end,), dials=dials, backend="grpc"))
if not is_hub:
    endpoint.connect({end: address})
round, sent = 1, torch.arange(250_000, dtype=torch.float32)
while True:
    event = channel.receive(300)
    if isinstance(event, Left):
        print("left", "for good" if event.final else event.reason, flush=True)
    elif isinstance(event, Joined):
        print("joined", flush=True)
    if not isinstance(event, Arrived):
        if is_hub and isinstance(event, Joined):
            channel.send(Message("weights", round, groups={"g": {"w": sent + round}}), [end])
        continue
    try:
        got = event.offer.take(300)
    except TransportError as error:
        print("lost", error, flush=True)
        continue
    assert torch.equal(got.groups["g"]["w"], sent + got.round)
    if not is_hub:
        channel.send(got, [end])
    elif got.round == round:
        print("round", round, flush=True)
        round += 1
        channel.send(Message("weights", round, groups={"g": {"w": sent + round}}), [end])
"""


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


class Namespaces:
    """Two of them, with a link in between."""

    def __init__(self) -> None:
        own = f"fr{os.getpid() % 100_000}"
        self.names = f"{own}a", f"{own}b"
        self.links = f"{own}v", f"{own}w"
        self.address = "10.99.0.1:7000"

    def __enter__(self) -> Self:
        (here, there), (near, far) = self.names, self.links
        run("ip", "netns", "add", here)
        run("ip", "netns", "add", there)
        run("ip", "link", "add", near, "netns", here, "type", "veth", "peer", "name", far, "netns", there)
        for name, link, address in ((here, near, "10.99.0.1/24"), (there, far, "10.99.0.2/24")):
            run("ip", "-n", name, "addr", "add", address, "dev", link)
            run("ip", "-n", name, "link", "set", link, "up")
            run("ip", "-n", name, "link", "set", "lo", "up")
        return self

    def __exit__(self, *_: object) -> None:
        for name in self.names:
            with suppress(subprocess.CalledProcessError):
                run("ip", "netns", "del", name)

    def link(self, state: str) -> None:
        """Take the link `up` or `down`."""
        run("ip", "-n", self.names[0], "link", "set", self.links[0], state)

    def shape(self, *rule: str) -> None:
        """Let the link delay, lose or slow down what passes."""
        run("tc", "-n", self.names[0], "qdisc", "replace", "dev", self.links[0], "root", *rule)


class Process:
    """A hub or a worker in a namespace, and the lines it prints."""

    def __init__(self, namespace: str, name: str, address: str, heartbeat: float) -> None:
        command = ["ip", "netns", "exec", namespace, sys.executable, "-c", PEER, name, address, str(heartbeat)]
        self._process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.strip())

    def says(self, beginning: str) -> list[str]:
        """The next lines up to one that begins like that."""
        lines = [self._lines.get(timeout=SOON)]
        while not lines[-1].startswith(beginning):
            lines.append(self._lines.get(timeout=SOON))
        return lines

    def so_far(self) -> list[str]:
        """The lines that nobody has asked for."""
        lines = []
        with suppress(queue.Empty):
            while True:
                lines.append(self._lines.get_nowait())
        return lines

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def network() -> Iterator[Namespaces]:
    if shutil.which("ip") is None or shutil.which("tc") is None:
        pytest.skip("needs `ip` and `tc` of iproute2")
    made = Namespaces()
    try:
        with made:
            yield made
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {' '.join(error.cmd)}: {error.stderr.strip()}")


class Pair:
    """A hub and a worker on two machines, in their first rounds."""

    def __init__(self, network: Namespaces, heartbeat: float) -> None:
        self.hub = Process(network.names[0], "hub", network.address, heartbeat)
        self.worker = Process(network.names[1], "worker", network.address, heartbeat)

    def __enter__(self) -> Self:
        self.hub.says("round 2")
        self.worker.says("joined")
        return self

    def __exit__(self, *_: object) -> None:
        self.worker.close()
        self.hub.close()

    def goes_on(self, rounds: int = 3) -> list[str]:
        """What the hub says during some rounds more."""
        return [line for _ in range(rounds) for line in self.hub.says("round")]


def test_a_partition_shorter_than_the_heartbeat_costs_nothing_but_time(network):
    with Pair(network, heartbeat=30.0) as pair:
        network.link("down")
        network.link("up")
        assert all(line.startswith("round") for line in pair.goes_on())
        assert pair.worker.so_far() == []


def test_a_partition_longer_than_the_heartbeat_parts_both_sides_and_they_find_each_other_again(network):
    with Pair(network, heartbeat=2.0) as pair:
        for _ in range(2):
            network.link("down")
            for process in (pair.hub, pair.worker):
                assert "for good" not in process.says("left")[-1]
            network.link("up")
            for process in (pair.hub, pair.worker):
                process.says("joined")
            pair.goes_on()


def test_a_worker_that_vanished_with_its_machine_is_missed_and_its_successor_admitted(network):
    with Pair(network, heartbeat=2.0) as pair:
        network.link("down")
        # Nothing of its end reaches the hub.
        pair.worker.close()
        assert "for good" not in pair.hub.says("left")[-1]
        network.link("up")
        pair.worker = Process(network.names[1], "worker", network.address, 2.0)
        pair.hub.says("joined")
        pair.worker.says("joined")
        pair.goes_on()


def test_a_worker_that_was_started_anew_waits_until_its_vanished_predecessor_is_missed(network):
    with Pair(network, heartbeat=4.0) as pair:
        network.link("down")
        pair.worker.close()
        network.link("up")
        pair.worker = Process(network.names[1], "worker", network.address, 4.0)
        assert [line for line in pair.hub.says("joined") if line.startswith("left")]
        pair.goes_on()


@pytest.mark.parametrize(
    "rule",
    [
        ["netem", "delay", "20ms", "5ms", "loss", "2%"],
        ["netem", "delay", "2ms", "reorder", "25%", "duplicate", "5%", "corrupt", "1%"],
        ["tbf", "rate", "40mbit", "burst", "32kbit", "latency", "50ms"],
    ],
    ids=["delay and loss", "reorder, duplicate and corrupt", "slow"],
)
def test_a_bad_link_delays_the_rounds_and_changes_nothing(network, rule):
    with Pair(network, heartbeat=20.0) as pair:
        try:
            network.shape(*rule)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this kernel has no {rule[0]}: {error.stderr.strip()}")
        assert all(line.startswith("round") for line in pair.goes_on(5))
        assert pair.worker.so_far() == []
