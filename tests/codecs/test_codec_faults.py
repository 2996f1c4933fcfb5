"""Jobs with codecs in which something goes wrong: refused updates count for nothing, lost workers change no bit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from roles.errors import BadModel
from roles.rounds.average import WEIGHTS
from roles.settings import Quorum
from roles.state import model_sha256
from roles.trainer import Task
from tests.codecs.test_codec_jobs import SETTINGS, Drifting, build_module, codecs_of, final, same
from tests.roles.federation import PATIENCE, Job, Killed, Layout, Record, federate, three_tier, two_tier
from tests.roles.specimens import Points
from transports.base import Channel
from transports.message import Message

Spoil = Callable[[Message], Message]


def job_with(layout: Layout, up: list[str], folder: Path | None, *, min_ends: int | None = None, **more: Any) -> Job:
    channels = {channel: {"upload": up, "distribute": ["bf16"]} for channel in layout.tags}
    quorum = Quorum(join_timeout=PATIENCE, min_ends=min_ends)
    settings = replace(SETTINGS, codecs=codecs_of(channels), quorum=quorum)
    data = [lambda: Points(0, 1)] * len(layout.trainers)
    return Job(build_module=build_module, data=data, settings=settings, folder=folder, **more)


def sending(spoil: Spoil) -> type[Drifting]:
    """A trainer whose encoded updates are changed before they are sent."""

    class Sending(Drifting):
        def upload(self, channel: Channel, task: Task, update: Message) -> None:
            super().upload(channel, task, spoil(update))

    return Sending


def part(update: Message, name: str) -> torch.Tensor:
    return update.groups[f"weights.float32.{name}"]["net.0.weight"]


def _with(name: str, value: float) -> Spoil:
    def spoil(update: Message) -> Message:
        part(update, name).view(-1)[-1] = value
        return update

    return spoil


def _raw(update: Message) -> Message:
    """The update as it would be without a codec."""
    specs = {"net.0.weight": (64, 4), "net.0.bias": (64,), "net.2.weight": (3, 64), "net.2.bias": (3,)}
    groups = {WEIGHTS: {name: torch.zeros(shape) for name, shape in specs.items()}}
    return Message(kind="update", round=update.round, scalars=update.scalars, groups=groups)


BAD: dict[str, tuple[list[str], Spoil, str]] = {
    "scale": (["int8"], _with("scales", float("inf")), "'net.0.weight' has scales that are negative or too large"),
    "nan": (["bf16"], _with("values", float("nan")), "'net.0.weight' has values that are not finite"),
    "infinite": (["topk"], _with("values", float("inf")), "'net.0.weight' has values that are not finite"),
    "far": (["topk"], _with("indices", 256), "'net.0.weight' has indices that do not ascend within 0 to 255"),
    "twice": (["topk", "int8"], _with("indices", 1), "'net.0.weight' has indices that do not ascend within 0 to 255"),
    "raw": (["topk"], _raw, "tensor groups ['weights'] where ['weights', 'weights.float32.indices', 'weights.float32.values']"),
    "sum": (["int8"], lambda update: update.relabel(scalars={**update.scalars, "merged": True}), "a sum where an encoded mean"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_encoded_update_is_refused_whole(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    up, spoil, reason = BAD[kind]
    layout = two_tier(3)
    good, bad = {f"trainer-{index}": Drifting for index in range(2)}, {"trainer-2": sending(spoil)}
    records = federate(layout, job_with(layout, up, tmp_path / "bad", min_ends=2, code_of={**good, **bad}))
    assert {name: record.error for name, record in records.items()} == dict.fromkeys(records)
    assert records["aggregator-0"].metrics_of("rejected_updates") == dict.fromkeys(range(1, 5), 1)
    assert records["trainer-2"].metrics_of("refused_updates") == dict.fromkeys(range(1, 5), 1)
    assert any(reason in record.getMessage() for record in caplog.records)
    alone = two_tier(2, trainer=Drifting)
    federate(alone, job_with(alone, up, tmp_path / "without"))
    same(final(tmp_path / "bad"), final(tmp_path / "without"))


def test_an_update_with_nan_is_refused_and_its_trainer_goes_on(tmp_path: Path) -> None:
    class Diverging(Drifting):
        def train(self, task: Task) -> Message:
            update = super().train(task)
            if task.round == 2:
                update.groups[WEIGHTS]["net.2.weight"][1, 5] = float("nan")
            return update

    for up in (["int8"], ["topk", "bf16"]):
        layout = two_tier(3, trainer=Drifting)
        records = federate(layout, job_with(layout, up, tmp_path, min_ends=2, code_of={"trainer-1": Diverging}))
        assert {name: record.error for name, record in records.items()} == dict.fromkeys(records)
        assert records["aggregator-0"].metrics_of("updates") == {1: 3, 2: 2, 3: 3, 4: 3}
        assert all(bool(torch.from_numpy(value).isfinite().all()) for value in final(tmp_path).values())


def test_an_update_with_other_entries_than_the_model_is_the_worker_s_fault() -> None:
    class Growing(Drifting):
        def train(self, task: Task) -> Message:
            update = super().train(task)
            groups = {WEIGHTS: {**update.groups[WEIGHTS], "extra": torch.zeros(3)}}
            return Message(kind="update", round=task.round, scalars=update.scalars, groups=groups)

    layout = two_tier(2, trainer=Drifting)
    records = federate(layout, job_with(layout, ["topk"], None, code_of={"trainer-1": Growing}))
    assert isinstance(records["trainer-1"].error, BadModel)
    assert "['extra']" in str(records["trainer-1"].error)


class Mortal(Drifting):
    """Dies in the third round, once."""

    def train(self, task: Task) -> Message:
        if task.round == 3 and not self.context.resume:
            raise Killed("as the test wants it")
        return super().train(task)


@pytest.mark.parametrize("when", ["before the update", "after it"])
def test_a_worker_that_is_started_anew_goes_on_with_its_codec_s_memory(when: str, tmp_path: Path) -> None:
    class Later(Drifting):
        """Dies when its update of the second round was sent, once."""

        def upload(self, channel: Channel, task: Task, update: Message) -> None:
            super().upload(channel, task, update)
            if task.round == 2 and not self.context.resume:
                raise Killed("as the test wants it")

    hashes = []
    for name, code in (("whole", Drifting), ("killed", Mortal if when == "before the update" else Later)):
        layout = three_tier({"eu": 2, "na": 1}, trainer=Drifting)
        job = job_with(layout, ["topk", "int8"], tmp_path / name, states=tmp_path / f"{name}-states", code_of={"trainer-1": code})
        records = federate(layout, job, restart=True)
        assert {name: record.error for name, record in records.items()} == dict.fromkeys(records)
        assert len(records["trainer-1"].deaths) == (code is not Drifting)
        hashes.append(model_sha256(torch.load(tmp_path / name / "last.pt", weights_only=True)))
    assert hashes[0] == hashes[1]


def test_records_say_who_sent_how_much(tmp_path: Path) -> None:
    layout = three_tier({"eu": 1, "na": 1}, trainer=Drifting)
    records: dict[str, Record] = federate(layout, job_with(layout, ["topk"], tmp_path))
    for name in ("trainer-0", "trainer-1", "middle-0", "middle-1"):
        assert list(records[name].metrics_of("upload_bytes")) == [1, 2, 3, 4]
    for name in ("top-0", "middle-0", "middle-1"):
        assert list(records[name].metrics_of("distribute_bytes")) == [1, 2, 3, 4]
