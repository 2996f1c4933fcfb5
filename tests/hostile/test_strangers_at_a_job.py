"""A whole job under attack, guarded by its token: it refuses, says so, and makes the same model."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import repeat
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from flame_run.control import wire
from flame_run.security.private import read_private
from tests.hostile.strangers import (
    SOON,
    Door,
    SlowSenders,
    channel_to,
    flood_of_calls,
    knock,
    nonsense,
    outcome,
    say,
    swallowed,
)

code = grpc.StatusCode
HEARTBEAT = 8.0


@pytest.fixture
def siege(besieged: Callable[..., Any], token: Path) -> Any:
    """A job in its rounds, all of whose bytes go through sockets."""
    begun = besieged(f"security.token_file={token}", f"faults.heartbeat={HEARTBEAT}", "transport=grpc")
    begun.run.await_line(r"^round 1/")
    return begun


@pytest.fixture
def secret(token: Path) -> str:
    return read_private(token).decode().strip()


def completed(siege: Any, undisturbed: str, *secrets: str) -> dict[str, Any]:
    """Let the job go on to its end, which is as if nothing had happened; returns the refusals of its summary."""
    assert siege.relieve() == 0, siege.run.text + siege.run.stderr
    summary = siege.run.json("summary.json")
    assert (summary["status"], summary["error"]) == ("completed", None)
    assert summary["model_sha256"] == undisturbed
    assert siege.run.left_over() == []
    logs = siege.logs()
    assert not any(each in logs for each in secrets)
    assert "Traceback" not in logs
    # The key is there where anything was refused.
    nothing: dict[str, Any] = {"refused": {"controller": {}, "workers": {}}}
    refused: dict[str, Any] = summary.get("security", nothing)["refused"]
    return refused


def test_a_job_that_nobody_disturbs_has_refused_nobody(besieged: Callable[..., Any], undisturbed: str) -> None:
    siege = besieged()
    siege.run.await_line(r"^round 1/")
    assert completed(siege, undisturbed) == {"controller": {}, "workers": {}}
    assert "refused" not in siege.logs()


def test_strangers_and_thieves_are_refused_and_counted(siege: Any, secret: str, undisturbed: str) -> None:
    inner = siege.channel_token()
    for door in siege.doors():
        right = secret if door.control else inner
        for wrong in ("", "guess", right[:-1], right + "0", inner if door.control else secret):
            status, reason = knock(door, wrong, "trainer-0")
            assert status is code.UNAUTHENTICATED
            assert right not in reason
        for name in ("mallory", "trainer-2", "", "x" * 5000, "\x1b[2J\x07", "controller"):
            status, reason = knock(door, right, name)
            assert status is (code.NOT_FOUND if door.control else code.PERMISSION_DENIED), reason
        for name in ("trainer-0", "trainer-1") * 3:
            assert knock(door, right, name)[0] is code.ALREADY_EXISTS
    refused = completed(siege, undisturbed, secret, inner)
    assert refused["controller"] == {"name": 6, "taken": 6, "token": 5}
    assert refused["workers"] == {"aggregator-0": 17}
    assert "refused connections or messages: the controller 17 times (name 6, taken 6, token 5), aggregator-0 17 times" in (
        siege.run.text
    )
    logs = siege.logs()
    assert logs.count("has no valid job token") == 5
    assert logs.count("wrong token") == 5
    assert not set("\x1b\x07") & set(logs)


def test_bytes_that_are_no_call_and_calls_that_are_too_large_change_nothing(siege: Any, secret: str, undisturbed: str) -> None:
    memory = [(each, each.memory_info().rss) for each in (psutil.Process(siege.run.process.pid), *siege.run.family)]
    for door in siege.doors():
        for seed, data in enumerate(nonsense(door, 7)):
            assert say(door, data), f"{door} did not hang up on the bytes of number {seed}"
        for large in (("x-large", "y" * 2**20), ("x-large-bin", bytes(2**20))):
            assert knock(door, "guess", "trainer-0", metadata=[large])[0] is not code.OK
        megabytes = [bytes(12 * 2**20)] * 8
        assert knock(door, "guess", "trainer-0", messages=megabytes)[0] is not code.OK
    (control,) = [door for door in siege.doors() if door.control]
    register = wire.register("mallory", 1, "h" * 7 * 2**20)
    assert knock(control, secret, "mallory", messages=[register])[0] is code.RESOURCE_EXHAUSTED
    register = wire.register("mallory\n\x1b[2J", 1, "\x07" * 2**20)
    status, reason = knock(control, secret, "mallory", messages=[register])
    assert status is code.NOT_FOUND
    assert len(reason) < 5000
    grown = {each.pid: each.memory_info().rss - before for each, before in memory if each.is_running()}
    assert max(grown.values()) < 400 * 2**20, grown
    refused = completed(siege, undisturbed, secret)
    assert refused["controller"]["oversized"] == 1
    assert refused["controller"]["name"] == 1
    assert not set("\x1b\x07") & set(siege.logs())


def test_slow_senders_and_floods_are_let_go_and_workers_notice_nothing(siege: Any, secret: str, undisturbed: str) -> None:
    doors: list[Door] = siege.doors()
    told: Counter[bool] = Counter()
    with SlowSenders(doors, 20) as slow, ExitStack() as stack:
        crowds = [stack.enter_context(door.connected()) for door in doors for _ in range(300)]
        for door in doors:
            counts = flood_of_calls(door, "guess", "trainer-0", 500)
            assert set(counts) <= {"UNAUTHENTICATED", "UNAVAILABLE", "RESOURCE_EXHAUSTED"}, counts
            # How many of a flood are heard out depends on how fast they come.
            assert counts["UNAUTHENTICATED"] > 0
            told[door.control] += counts["UNAUTHENTICATED"]
        assert slow.dropped(SOON), f"{slow.left} slow senders are still connected"
        for stranger in crowds:
            assert swallowed(stranger)
    refused = completed(siege, undisturbed, secret)
    assert refused["controller"]["token"] >= told[True]
    assert refused["workers"]["aggregator-0"] >= told[False]
    # Of a flood the log has its beginning.
    assert siege.logs().count("has no valid job token") < 150
    assert siege.logs().count("wrong token") < 150


def test_calls_of_strangers_that_go_on_for_ever_are_ended(siege: Any, secret: str, undisturbed: str) -> None:
    for door in siege.doors():
        hello, _ = door.hello("guess", "trainer-0")
        with channel_to(door) as method:
            call = method(repeat(bytes(1000)), metadata=hello, timeout=SOON)
            assert outcome(call)[0] in (code.UNAUTHENTICATED, code.UNAVAILABLE)
        known, _ = door.hello(secret, "trainer-0")
        if door.control:  # the right token, and then not a word
            with channel_to(door) as method:
                silent = method(_nothing_more(), metadata=known, timeout=SOON)
                assert outcome(silent)[0] is code.DEADLINE_EXCEEDED
    refused = completed(siege, undisturbed, secret)
    assert refused["controller"]["silent"] == 1


def _nothing_more() -> Iterator[bytes]:
    """Messages that never come."""
    threading.Event().wait(2 * HEARTBEAT)
    yield b""
