"""What only shared memory has: segments that are used again, mapped by others, missing, or not what they seem."""

import errno
import gc
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.chaos.remains import lasting_segments
from transports.base import Arrived, Backend, Channel, ChannelSpec, Joined, Left, Offer
from transports.errors import Refused
from transports.grpc_channel import channel as channel_module
from transports.grpc_channel.endpoint import GrpcEndpoint
from transports.message import Message
from transports.shared_memory import pool as pool_module
from transports.shared_memory.pool import SharedMemory
from transports.shared_memory.segment import Handle, Segment, SharedPayload, map_payload

SOON = 30.0
TOKEN = "the secret of this job"
MEGABYTE = 2**20
REPOSITORY = Path(__file__).parents[2]
WORKER = """
import sys
import torch
from transports.base import Arrived, ChannelSpec
from transports.grpc_channel.endpoint import GrpcEndpoint
from transports.message import Message
endpoint = GrpcEndpoint("a", token="the secret of this job")
channel = endpoint.open(ChannelSpec(name="param", group="default", ends=("hub",), dials=frozenset({"hub"}), backend="shm"))
endpoint.connect({"hub": sys.argv[1]})
channel.wait_joined(timeout=60)
if sys.argv[2] == "send":
    channel.send(Message("update", 1, groups={"g": {"w": torch.arange(5_000_000, dtype=torch.int32)}}), ["hub"])
kept = []
while True:
    event = channel.receive(60)
    if isinstance(event, Arrived):
        kept.append(event.offer.take(60))
"""
SMALL_FOLDER = """
import logging
import torch
from transports.base import Arrived, ChannelSpec
from transports.grpc_channel.endpoint import GrpcEndpoint
from transports.message import Message
logging.basicConfig(format="%(levelname)s %(message)s")
with GrpcEndpoint("hub", token="t") as hub, GrpcEndpoint("a", token="t") as a:
    center = hub.open(ChannelSpec(name="param", group="default", ends=("a",), backend="shm"))
    spoke = a.open(ChannelSpec(name="param", group="default", ends=("hub",), dials=frozenset({"hub"}), backend="shm"))
    a.connect({"hub": hub.address})
    spoke.wait_joined(timeout=30)
    center.wait_joined(timeout=30)
    for nbytes in (400_000, 4_000_000, 4_000_000, 400_000):
        sent = torch.randint(0, 255, (nbytes,), dtype=torch.uint8)
        center.send(Message("weights", 1, groups={"g": {"w": sent}}), ["a"])
        while not isinstance(event := spoke.receive(30), Arrived):
            pass
        got = event.offer.take(30)
        assert torch.equal(got.groups["g"]["w"], sent)
        print(nbytes, type(got.payload).__name__)
"""


def weights(value: float = 1.0, *, floats: int = 100_000, round: int = 1) -> Message:
    return Message("weights", round, groups={"g": {"w": torch.full((floats,), value)}})


def next_offer(channel: Channel) -> Offer:
    event = channel.receive(SOON)
    assert isinstance(event, Arrived)
    return event.offer


def inode(message: Message) -> int:
    """The segment that a message lies in."""
    assert isinstance(message.payload, SharedPayload)
    return message.payload.handle.inode


def no_segment_has_a_name() -> bool:
    return not lasting_segments()


def mapped() -> list[str]:
    """The segments that this process has mapped or open."""
    gc.collect()
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if "flame-run-" in line]
    return maps + [link for link in open_files() if "flame-run-" in link]


def open_files() -> list[str]:
    found = []
    for path in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(path.readlink()))
        except FileNotFoundError:  # the one that lists them
            continue
    return found


@pytest.fixture
def hub() -> Iterator[GrpcEndpoint]:
    with GrpcEndpoint("hub", token=TOKEN, join_timeout=SOON) as endpoint:
        yield endpoint


def opened(hub: GrpcEndpoint, *ends: str, backend: Backend = "auto", name: str = "param") -> Channel:
    return hub.open(ChannelSpec(name=name, group="default", ends=ends or ("a",), backend=backend))


def dialling(endpoint: GrpcEndpoint, host: GrpcEndpoint, *, backend: Backend = "auto", name: str = "param") -> Channel:
    spec = ChannelSpec(name=name, group="default", ends=(host.name,), dials=frozenset({host.name}), backend=backend)
    channel = endpoint.open(spec)
    assert host.address is not None
    endpoint.connect({host.name: host.address})
    return channel


def met(*channels: Channel) -> None:
    """Wait until the channels have their one end, and take that event."""
    for channel in channels:
        assert isinstance(channel.receive(SOON), Joined)


# ---- what travels


def test_a_payload_is_written_once_and_mapped_by_every_reader(shm):
    center, spokes = shm.star("a", "b", "c")
    sent = center.allocate("weights", 1, weights().specs)
    sent.groups["g"]["w"].fill_(3.0)
    center.send(sent, spokes)
    got = [next_offer(spoke).take(SOON) for spoke in spokes.values()]
    assert {inode(message) for message in got} == {inode(sent)}
    assert all(bool((message.groups["g"]["w"] == 3.0).all()) for message in got)
    assert no_segment_has_a_name()


def test_a_message_from_private_memory_is_copied_into_a_segment_once(shm):
    center, spokes = shm.star("a", "b")
    for sent in (weights(5.0), weights(5.0).packed()):
        center.send(sent, spokes)
        got = [next_offer(spoke).take(SOON) for spoke in spokes.values()]
        assert len({inode(message) for message in got}) == 1
        assert all(bool((message.groups["g"]["w"] == 5.0).all()) for message in got)


def test_a_small_payload_travels_with_its_offer(shm):
    center, spokes = shm.star("a")
    center.send(center.allocate("weights", 1, weights(floats=100).specs), ["a"])
    assert not isinstance(next_offer(spokes["a"]).take(SOON).payload, SharedPayload)


def test_a_received_message_is_passed_on_without_a_copy_and_outlives_its_maker(hub):
    with GrpcEndpoint("middle", token=TOKEN) as middle, GrpcEndpoint("leaf", token=TOKEN) as leaf:
        top, down = opened(hub, "middle"), opened(middle, "leaf", name="down")
        up, bottom = dialling(middle, hub), dialling(leaf, middle, name="down")
        met(top, up, down, bottom)
        top.send(weights(7.0), ["middle"])
        got = next_offer(up).take(SOON)
        down.send(got.relabel(kind="again"), ["leaf"])
        last = next_offer(bottom).take(SOON)
        assert inode(last) == inode(got)
        hub.close()
        assert bool((last.groups["g"]["w"] == 7.0).all())


def test_a_stray_write_into_a_received_tensor_reaches_nobody_else(shm):
    center, spokes = shm.star("a", "b")
    center.send(weights(1.0), spokes)
    one, other = (next_offer(spoke).take(SOON).groups["g"]["w"] for spoke in spokes.values())
    one.add_(1.0)
    assert bool((other == 1.0).all())
    del one, other
    center.send(weights(4.0), spokes)
    assert all(bool((next_offer(spoke).take(SOON).groups["g"]["w"] == 4.0).all()) for spoke in spokes.values())


# ---- used again


def test_a_segment_is_used_again_once_every_reader_has_let_go(shm):
    center, spokes = shm.star("a", "b")
    seen = []
    for round in range(20):
        delivery = center.send(weights(float(round)), spokes)
        got = [next_offer(spoke).take(SOON) for spoke in spokes.values()]
        assert all(bool((message.groups["g"]["w"] == round).all()) for message in got)
        seen.append(inode(got[0]))
        if round % 2:
            for message in got:
                message.release()
        del got
        assert all(outcome.accepted for outcome in delivery.wait(SOON).values())
    # The sender's own thread may be about to let go of the last one.
    assert len(set(seen)) <= 3


def test_a_segment_with_an_unanswered_offer_is_not_used_again(shm):
    center, spokes = shm.star("a")
    for round in range(12):
        center.send(weights(float(round), round=round), ["a"])
    for round in range(12):
        assert bool((next_offer(spokes["a"]).take(SOON).groups["g"]["w"] == round).all())


def test_a_view_of_a_tensor_keeps_its_segment_even_after_release(shm):
    center, spokes = shm.star("a")
    center.send(weights(1.0), ["a"])
    got = next_offer(spokes["a"]).take(SOON)
    held = inode(got)
    view = got.groups["g"]["w"][-5:].view(torch.int32).view(torch.float32)
    got.release()
    del got
    for _ in range(6):
        center.send(weights(2.0), ["a"])
        assert inode(next_offer(spokes["a"]).take(SOON)) != held
    assert view.tolist() == [1.0] * 5


def test_a_message_that_its_maker_still_uses_is_not_overwritten(shm):
    center, _ = shm.star("a")
    specs = weights().specs
    mine = [center.allocate("weights", round, specs) for round in range(8)]
    for round, message in enumerate(mine):
        message.groups["g"]["w"].fill_(float(round))
    assert all(bool((message.groups["g"]["w"] == round).all()) for round, message in enumerate(mine))
    assert len({inode(message) for message in mine}) == 8


def test_a_handle_that_is_late_is_refused():
    segment = Segment(4 * MEGABYTE)
    first = segment.fill(MEGABYTE)
    assert first is not None
    handle = first.handle
    mine = map_payload(handle, MEGABYTE)
    assert segment.fill(MEGABYTE) is None
    del first
    assert segment.fill(MEGABYTE) is None
    del mine
    second = segment.fill(MEGABYTE)
    assert second is not None
    with pytest.raises(OSError, match="another message") as caught:
        map_payload(handle, MEGABYTE)
    assert caught.value.errno == errno.ESTALE
    map_payload(second.handle, MEGABYTE)


def test_a_thousand_rounds_leave_no_file_open(shm):
    center, spokes = shm.star("a", "b")
    specs = weights(floats=30_000).specs
    before = 0
    for round in range(1000):
        center.send(weights(float(round), floats=30_000), spokes)
        for spoke in spokes.values():
            got = next_offer(spoke).take(SOON)
            update = spoke.allocate("update", round, specs)
            update.groups["g"]["w"].copy_(got.groups["g"]["w"])
            spoke.send(update, ["hub"])
            next_offer(center).take(SOON).release()
            del got, update
        if round == 10:
            before = len(open_files())
    # Each of the three keeps a few segments, with two files each; a file of every round would be a thousand.
    assert len(open_files()) <= before + 3 * 2 * pool_module._KEPT_SEGMENTS
    assert no_segment_has_a_name()


def test_a_closed_endpoint_has_nothing_mapped_or_open():
    gc.collect()
    before = mapped()
    with GrpcEndpoint("hub", token=TOKEN) as hub, GrpcEndpoint("a", token=TOKEN) as a:
        center, spoke = opened(hub), dialling(a, hub)
        met(center, spoke)
        center.send(weights(), ["a"])
        spoke.send(weights(), ["hub"])
        got = next_offer(spoke).take(SOON)
        assert len(mapped()) > len(before)
        del got, spoke, center
    assert set(mapped()) <= set(before)


# ---- who shares and who does not


@pytest.mark.parametrize(("here", "there", "shared"), [("auto", "auto", True), ("grpc", "auto", False), ("auto", "grpc", False)])
def test_memory_is_shared_only_where_both_ends_want_to(hub, here, there, shared):
    with GrpcEndpoint("a", token=TOKEN) as a:
        center, spoke = opened(hub, backend=here), dialling(a, hub, backend=there)
        met(center, spoke)
        for sender, receiver, end in ((center, spoke, "a"), (spoke, center, "hub")):
            sender.send(weights(2.0), [end])
            got = next_offer(receiver).take(SOON)
            assert isinstance(got.payload, SharedPayload) is shared
            assert bool((got.groups["g"]["w"] == 2.0).all())


@pytest.mark.parametrize(("here", "there"), [("shm", "grpc"), ("grpc", "shm")])
def test_an_end_that_cannot_share_is_refused_where_shared_memory_is_demanded(hub, here, there):
    with GrpcEndpoint("a", token=TOKEN) as a:
        center, spoke = opened(hub, backend=here), dialling(a, hub, backend=there)
        with pytest.raises(Refused, match=r"has backend shm, but .* cannot share memory: one is on another machine.*; use auto"):
            (center if here == "shm" else spoke).wait_joined(timeout=SOON)


def test_ends_on_two_machines_exchange_through_the_network(hub, monkeypatch):
    with GrpcEndpoint("far", token=TOKEN) as far, GrpcEndpoint("near", token=TOKEN) as near:
        center = opened(hub, "far", "near")
        spokes = {"near": dialling(near, hub)}
        monkeypatch.setattr(channel_module, "machine_id", lambda: "another machine")
        spokes["far"] = dialling(far, hub)
        center.wait_joined(timeout=SOON)
        met(*spokes.values())
        center.send(weights(3.0, floats=MEGABYTE), spokes)
        got = {name: next_offer(spoke).take(SOON) for name, spoke in spokes.items()}
        assert isinstance(got["near"].payload, SharedPayload)
        assert not isinstance(got["far"].payload, SharedPayload)
        assert all(bool((message.groups["g"]["w"] == 3.0).all()) for message in got.values())


def test_a_backend_that_does_not_leave_the_process_is_a_mistake(hub):
    with pytest.raises(ValueError, match="backend 'inproc' does not leave the process"):
        opened(hub, backend="inproc")


# ---- no room, no access


def test_without_room_payloads_travel_through_grpc_with_one_warning(shm, monkeypatch, caplog):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    center, spokes = shm.star("a")
    monkeypatch.setattr(os, "posix_fallocate", full)
    with caplog.at_level(logging.WARNING):
        for value in (1.0, 2.0):
            center.send(weights(value), ["a"])
            got = next_offer(spokes["a"]).take(SOON)
            assert not isinstance(got.payload, SharedPayload)
            assert bool((got.groups["g"]["w"] == value).all())
    assert caplog.text.count("no shared memory for 400000 bytes") == 1
    assert "hub: " in caplog.text
    assert no_segment_has_a_name()


def test_a_shm_folder_that_is_too_small_is_worked_around():
    run = ["unshare", "-m", "sh", "-c"]
    mount = "mount -t tmpfs -o size=1m none /dev/shm"
    if shutil.which("unshare") is None or subprocess.run([*run, mount], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine lets us mount nothing")
    done = subprocess.run(
        [*run, f'{mount} && exec "$0" -c "$1"', sys.executable, SMALL_FOLDER],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["400000 SharedPayload", "4000000 Payload", "4000000 Payload", "400000 SharedPayload"]
    assert done.stderr.count("no shared memory for 4000000 bytes") == 1


def test_what_cannot_be_mapped_is_fetched_through_grpc_with_one_warning(shm, monkeypatch, caplog):
    def denied(handle: Handle, nbytes: int) -> SharedPayload:
        raise PermissionError(errno.EACCES, "Permission denied", f"/proc/{handle.pid}/fd/{handle.descriptor} of {nbytes}")

    center, spokes = shm.star("a")
    monkeypatch.setattr(pool_module, "map_payload", denied)
    with caplog.at_level(logging.WARNING):
        for value in (1.0, 2.0):
            delivery = center.send(weights(value, floats=MEGABYTE), ["a"])
            got = next_offer(spokes["a"]).take(SOON)
            assert bool((got.groups["g"]["w"] == value).all())
            assert delivery.wait(SOON)["a"].accepted
    assert caplog.text.count("the shared memory of hub cannot be mapped") == 1


def test_segments_of_another_size_make_way_for_a_new_one(monkeypatch):
    memory, real = SharedMemory("a"), os.posix_fallocate
    for nbytes in (MEGABYTE, 3 * MEGABYTE):
        assert memory.take(nbytes) is not None
    before = len(mapped())
    calls: list[int] = []

    def full_at_first(descriptor: int, start: int, size: int) -> None:
        calls.append(size)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor, start, size)

    monkeypatch.setattr(os, "posix_fallocate", full_at_first)
    payload = memory.take(9 * MEGABYTE)
    assert payload is not None
    assert len(mapped()) < before


# ---- processes that die


def start_worker(hub: GrpcEndpoint, what: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WORKER, hub.address or "", what], cwd=REPOSITORY)


def ended(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def test_what_was_mapped_stays_when_its_sender_is_killed(hub):
    center = opened(hub, backend="shm")
    process = start_worker(hub, "send")
    try:
        assert isinstance(center.receive(60), Joined)
        got = next_offer(center).fetch(SOON)
    finally:
        ended(process)
    left = center.receive(SOON)
    assert isinstance(left, Left)
    assert not left.clean
    assert isinstance(got.payload, SharedPayload)
    assert torch.equal(got.groups["g"]["w"], torch.arange(5_000_000, dtype=torch.int32))
    assert no_segment_has_a_name()
    del got, left


def test_a_killed_receiver_holds_no_segment(hub):
    center = opened(hub, backend="shm")
    process = start_worker(hub, "keep")
    seen = []
    try:
        assert isinstance(center.receive(60), Joined)
        specs = weights().specs
        for round in (1, 2):
            sent = center.allocate("weights", round, specs)
            seen.append(inode(sent))
            assert center.send(sent, ["a"]).wait(SOON)["a"].accepted
            del sent
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert isinstance(center.receive(SOON), Left)
    assert len(set(seen)) == 2
    again = [hub.memory.take(weights().nbytes) for _ in range(2)]
    assert {payload.handle.inode for payload in again if payload is not None} == set(seen)
    assert no_segment_has_a_name()


# ---- handles that are not what they seem


def handle_of(descriptor: int) -> Handle:
    found = os.fstat(descriptor)
    return Handle(os.getpid(), descriptor, found.st_dev, found.st_ino, filling=1)


def test_a_handle_of_something_else_than_a_segment_maps_nothing(tmp_path):
    fifo, file, foreign = tmp_path / "fifo", tmp_path / "file", Path(f"/dev/shm/test-flame-{os.getpid()}")
    os.mkfifo(fifo)
    file.write_bytes(bytes(100_000))
    foreign.write_bytes(bytes(100_000))
    try:
        for path, flags in ((fifo, os.O_RDWR), (file, os.O_RDONLY), (foreign, os.O_RDONLY), (Path("/dev/zero"), os.O_RDONLY)):
            descriptor = os.open(path, flags)
            with pytest.raises(OSError):
                map_payload(handle_of(descriptor), 10_000)
            os.close(descriptor)
    finally:
        foreign.unlink()


def test_a_handle_with_a_wrong_number_maps_nothing():
    segment = Segment(MEGABYTE)
    payload = segment.fill(MEGABYTE)
    assert payload is not None
    right = payload.handle
    map_payload(right, MEGABYTE)
    for wrong in (
        replace(right, filling=2),
        replace(right, inode=right.inode + 1),
        replace(right, device=right.device + 1),
        replace(right, descriptor=10**6),
        replace(right, pid=2**22 + 1),
    ):
        with pytest.raises(OSError):
            map_payload(wrong, MEGABYTE)
    with pytest.raises(OSError, match="cannot hold"):
        map_payload(right, MEGABYTE + 1)


def test_a_released_payload_has_no_handle():
    payload = SharedMemory("a").take(MEGABYTE)
    assert payload is not None
    payload.release()
    with pytest.raises(ValueError, match="no handle"):
        _ = payload.handle
