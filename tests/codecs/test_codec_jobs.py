"""Whole jobs with codecs on their channels, against federated averaging through the same codecs in NumPy."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from roles import seeds
from roles.codecs.options import ChannelCodecs, read_direction
from roles.null import NullTrainer
from roles.rounds.average import WEIGHTS
from roles.settings import Quorum, Settings
from roles.state import model_sha256
from roles.trainer import Task
from tests.codecs import oracle
from tests.roles.federation import PATIENCE, Job, Layout, Record, federate, three_tier, two_tier
from tests.roles.specimens import Points, classifier
from tests.roles.test_federation_rounds import Queue, _Telling
from transports.base import Channel
from transports.message import Message

SETTINGS = Settings(seed=8, rounds=4, quorum=Quorum(join_timeout=PATIENCE))
PARAMETERS = {"int8": {"name": "int8", "block": 8}, "topk": {"name": "topk", "fraction": 0.25}}
UPLOADS = (
    ["bf16"],
    ["fp16"],
    ["int8"],
    ["delta"],
    ["delta", "bf16"],
    ["delta", "int8"],
    ["topk"],
    ["topk", "bf16"],
    ["topk", "int8"],
)
build_module = classifier(lambda: nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3)))
"""Entries of 256, 64 and 192 values, and one of 3, which is too small to be encoded."""
DISTRIBUTES: tuple[list[str], ...] = ([], ["bf16"], ["int8"])


def drift(worker: str, round: int, name: str, shape: tuple[int, ...]) -> Any:
    """What a round of training changes: float32 noise that depends on worker, round and entry."""
    generator = np.random.default_rng(zlib.crc32(f"{worker} {round} {name}".encode()))
    return generator.normal(0, 0.1, shape).astype(np.float32)


def weight_of(worker: str) -> float:
    return 3.0 + int(worker.rpartition("-")[2])


class Drifting(NullTrainer):
    """A trainer whose training adds `drift` to the weights."""

    def samples(self) -> int:
        return int(weight_of(self.context.name))

    def train(self, task: Task) -> Message:
        values = {
            name: value + torch.from_numpy(drift(self.context.name, task.round, name, tuple(value.shape)))
            for name, value in task.model.groups[WEIGHTS].items()
        }
        scalars = {"weight": weight_of(self.context.name), "samples": self.samples(), "merged": False}
        return Message(kind="update", round=task.round, scalars=scalars, groups={WEIGHTS: values})


def codecs_of(channels: Mapping[str, Mapping[str, Sequence[str]]]) -> dict[str, ChannelCodecs]:
    """Settings from channel -> direction -> names, with the parameters of the oracle."""
    return {
        channel: ChannelCodecs(
            **{
                direction: read_direction([PARAMETERS.get(name, name) for name in names], "", direction, [])
                for direction, names in directions.items()
            }
        )
        for channel, directions in channels.items()
    }


def run(layout: Layout, channels: Mapping[str, Any], folder: Path | None, **more: Any) -> dict[str, Record]:
    settings = replace(SETTINGS, codecs=codecs_of(channels))
    data = [lambda: Points(0, 1)] * len(layout.trainers)
    job = Job(build_module=build_module, data=data, settings=settings, folder=folder, **more)
    records = federate(layout, job)
    assert {name: record.error for name, record in records.items()} == dict.fromkeys(records)
    return records


def final(folder: Path) -> oracle.State:
    return {name: value.numpy() for name, value in torch.load(folder / "last.pt", weights_only=True).items()}


def expected(tier: oracle.Tier) -> oracle.State:
    seeds.apply(seeds.derive(SETTINGS.seed, "model"))
    model = {name: value.numpy().copy() for name, value in build_module().state_dict().items()}
    for round in range(1, SETTINGS.rounds + 1):
        model, _ = tier.round(round, model)
    return model


def trains(worker: str) -> Any:
    def train(round: int, model: oracle.State) -> tuple[oracle.State, float]:
        return {name: value + drift(worker, round, name, value.shape) for name, value in model.items()}, weight_of(worker)

    return train


def same(one: oracle.State, other: oracle.State) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert np.allclose(one[name], other[name], rtol=1e-5, atol=2e-6), name


@pytest.mark.parametrize("down", DISTRIBUTES, ids=str)
@pytest.mark.parametrize("up", UPLOADS, ids=str)
def test_two_tiers_compute_what_numpy_computes(up: list[str], down: list[str], tmp_path: Path) -> None:
    layout, codecs = two_tier(3, trainer=Drifting), {"upload": up, "distribute": down}
    run(layout, {"param": codecs}, tmp_path)
    same(final(tmp_path), expected(oracle.Tier({name: trains(name) for name in layout.trainers}, codecs)))


@pytest.mark.parametrize(
    "channels",
    [
        {"global": {"upload": ["bf16"], "distribute": ["bf16"]}},
        {"param": {"upload": ["topk", "int8"], "distribute": ["int8"]}},
        {"global": {"upload": ["topk"]}, "param": {"upload": ["delta", "int8"]}},
        {"global": {"upload": ["delta", "int8"], "distribute": ["bf16"]}, "param": {"upload": ["topk"], "distribute": ["fp16"]}},
    ],
    ids=str,
)
def test_three_tiers_compute_what_numpy_computes(channels: Any, tmp_path: Path) -> None:
    layout = three_tier({"eu": 2, "na": 1}, trainer=Drifting)
    run(layout, channels, tmp_path)
    param = channels.get("param", {})
    middles = {
        "middle-0": oracle.Tier({name: trains(name) for name in ("trainer-0", "trainer-1")}, param),
        "middle-1": oracle.Tier({"trainer-2": trains("trainer-2")}, param),
    }
    same(final(tmp_path), expected(oracle.Tier(middles, channels.get("global", {}))))


def test_updates_and_models_get_as_small_as_promised() -> None:
    up, down = {}, {}
    for names in ([], ["bf16"], ["int8"], ["topk"]):
        records = run(two_tier(2, trainer=Drifting), {"param": {"upload": names}}, None)
        up[str(names)] = records["trainer-0"].metrics_of("upload_bytes")
    for names in ([], ["bf16"], ["int8"]):
        records = run(two_tier(2, trainer=Drifting), {"param": {"distribute": names}}, None)
        down[str(names)] = records["aggregator-0"].metrics_of("distribute_bytes")
    # Entries start at multiples of 64 bytes; the three biases of the last layer travel as they are.
    plain, half, quarter = 1024 + 256 + 768 + 12, 512 + 128 + 384 + 12, (256 + 64 + 192) + (128 + 64 + 128) + 12
    sizes = {"[]": plain, "['bf16']": half, "['int8']": quarter, "['topk']": 2 * (256 + 64 + 192) + 12}
    assert up == {name: dict.fromkeys(range(1, 5), size) for name, size in sizes.items()}
    del sizes["['topk']"]
    assert down == {name: dict.fromkeys(range(1, 5), 2 * size) for name, size in sizes.items()}


def backwards(queue: Queue) -> type[Drifting]:
    """Trainers that send in the order of `queue`."""

    class Backwards(Drifting):
        def upload(self, channel: Channel, task: Task, update: Message) -> None:
            with self.context.endpoint.mailbox.gate.released():  # type: ignore[attr-defined]
                queue.await_turn(task.round, self.context.name)
            told = _Telling(channel, lambda: queue.left(task.round, self.context.name))
            super().upload(told, task, update)

    return Backwards


@pytest.mark.parametrize("up", [["bf16"], ["delta", "int8"], ["topk", "int8"]], ids=str)
def test_the_order_of_arrival_changes_no_bit(up: list[str], tmp_path: Path) -> None:
    queue = Queue({round: ["trainer-2", "trainer-1", "trainer-0"] for round in range(1, 5)})
    hashes = set()
    for name, trainer in (("plain", Drifting), ("backwards", backwards(queue))):
        run(two_tier(3, trainer=trainer), {"param": {"upload": up, "distribute": ["bf16"]}}, tmp_path / name)
        hashes.add(model_sha256(torch.load(tmp_path / name / "last.pt", weights_only=True)))
    assert queue.sent[0] == (1, "trainer-2")
    assert len(hashes) == 1
