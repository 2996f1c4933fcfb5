"""The benchmarks run: at the smallest size, without a word on how fast anything is."""

import itertools
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.benchmarks.command import REPOSITORY
from tests.benchmarks.result import Bound, Options, Row, alternating
from tests.benchmarks.scripts import measured_by
from tests.benchmarks.table import amount


def row(ours: list[float], bound: Bound | None = None) -> Row:
    return Row(benchmark="null-5", variant="shm", unit="ms", ours=ours, floor_name="TCP", floor=[10.0, 20.0, 90.0], bound=bound)


def test_a_ratio_is_that_of_the_medians() -> None:
    assert row([30.0, 5.0, 1000.0]).ratio == 1.5
    assert row([30.0]).holds is None


@pytest.mark.parametrize(("factor", "extra", "holds"), [(1.5, 0.0, True), (1.4, 0.0, False), (1.0, 10.0, True), (1.0, 9.0, False)])
def test_a_bound_is_a_multiple_of_the_floor_and_something_on_top(factor: float, extra: float, holds: bool) -> None:
    assert row([30.0], Bound(factor=factor, extra=extra, text="")).holds is holds


def test_samples_are_taken_in_turn() -> None:
    count = itertools.count(1)
    samplers = {name: partial(next, count) for name in ("floor", "ours")}
    assert alternating(Options(repeat=3, say=lambda _: None), "x", samplers) == {"floor": [1, 3, 5], "ours": [2, 4, 6]}


@pytest.mark.parametrize(("value", "text"), [(1234.5, "1,234 ms"), (12.34, "12.3 ms"), (0.5, "0.50 ms")])
def test_an_amount_has_three_digits(value: float, text: str) -> None:
    assert amount([value], "ms") == text


@pytest.mark.parametrize("options", [{"processes": 1}, {"processes": 2}, {"processes": 2, "store": ""}])
def test_bare_streams_exchange_every_round(options: dict[str, object]) -> None:
    words = [word for key, value in options.items() for word in (f"--{key}", str(value)) if word]
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.floors.grpc_streams",
        "--megabytes",
        "1.5",
        "--ends",
        "3",
        "--rounds",
        "2",
        *words,
    ]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=240, check=True)
    assert len(json.loads(done.stdout)) == 2


def test_plain_sockets_exchange_every_round() -> None:
    assert len(measured_by("tests.benchmarks.floors.tcp", megabytes=1, ends=3, rounds=2)) == 2


def test_the_plain_loop_learns_on_one_process_and_on_two() -> None:
    work = {"network": "small", "clients": 4, "images": 200, "batch": 20, "rounds": 2}
    one, two = (measured_by("tests.benchmarks.floors.training", **work, processes=count) for count in (1, 2))
    assert one["accuracy"] > 0.3
    assert two["accuracy"] > 0.3


def test_a_benchmark_prints_its_table_and_writes_json(tmp_path: Path) -> None:
    words = ["--quick", "--only", "null-5", "--transports", "shm", "--json", str(tmp_path / "bench.json")]
    command = [sys.executable, "-m", "tests.benchmarks", *words]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "bench.json").read_text())
    assert [(row["benchmark"], row["variant"], row["floor_name"]) for row in found["rows"]] == [
        ("null-5", "shm", "TCP + average"),
        ("null-5", "shm", "bare gRPC streams"),
    ]
    assert all(row["ours_median"] > 0 and row["floor_median"] > 0 for row in found["rows"])
    assert "bare gRPC streams" in done.stdout
    assert found["machine"]["cores"] >= 1
