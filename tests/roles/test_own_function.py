from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch

from roles.aggregator import Aggregator
from roles.role import Role
from roles.settings import Quorum, Settings
from roles.tags import function
from roles.trainer import Trainer
from tests.roles import oracle
from tests.roles.federation import PARAMETERS, PATIENCE, UPWARDS, Job, Layout, Worker, federate, two_tier
from tests.roles.specimens import Points, classifier
from transports.base import Arrived, Channel, Left
from transports.message import Message

SETTINGS = Settings(seed=8, rounds=3, quorum=Quorum(join_timeout=PATIENCE))
DATA = {f"trainer-{index}": Points(index, size) for index, size in enumerate((12, 9))}


def norm_of(values: Iterable[torch.Tensor]) -> float:
    return float(torch.stack([value.norm() for value in values]).norm())


class ReportingTrainer(Trainer):
    """A user's trainer: tells an auditor about each update, on a channel of its own."""

    @function("report", after="upload")
    def report(self, channel: Channel) -> None:
        norm = norm_of(self.training.module.state_dict().values())
        channel.send(Message("report", 0, scalars={"norm": norm}), channel.spec.ends).wait(PATIENCE)


class Auditor(Role):
    """A user's role that the package does not know: collects reports until all trainers have left."""

    heard: ClassVar[dict[str, list[float]]] = {}

    def run(self) -> None:
        self.join()
        self.perform("audit")

    @function("audit")
    def audit(self, channel: Channel) -> None:
        present = set(channel.spec.ends)
        while present:
            event = channel.receive(PATIENCE)
            if isinstance(event, Left):
                present.discard(event.end)
            elif isinstance(event, Arrived):
                message = event.offer.take()
                self.heard.setdefault(message.sender, []).append(float(message.scalars["norm"]))


def audited() -> Layout:
    workers = [Worker("aggregator-0", "aggregator", {"param": "default"}), Worker("auditor-0", "auditor", {"audit": "default"})]
    workers += [Worker(name, "trainer", {"param": "default", "audit": "default"}) for name in DATA]
    return Layout(
        {"aggregator": Aggregator, "auditor": Auditor, "trainer": ReportingTrainer},
        {
            "param": {"aggregator": PARAMETERS, "trainer": UPWARDS},
            "audit": {"auditor": ("audit",), "trainer": ("report",)},
        },
        tuple(workers),
    )


def job(folder: Path) -> Job:
    factories = [partial(Points, own.seed, own.samples) for own in DATA.values()]
    return Job(build_module=classifier(), data=factories, settings=SETTINGS, folder=folder)


def test_a_users_function_is_one_of_the_tags_of_its_role() -> None:
    assert sorted(ReportingTrainer.get_func_tags()) == ["coordinate", "fetch", "report", "ring_allreduce", "upload"]
    assert Auditor.get_func_tags() == ["audit"]


def test_a_users_function_runs_after_every_upload_on_its_own_channel(tmp_path: Path) -> None:
    Auditor.heard.clear()
    records = federate(audited(), job(tmp_path))
    assert {name: record.error for name, record in records.items()} == dict.fromkeys(records)
    assert {name: len(norms) for name, norms in Auditor.heard.items()} == dict.fromkeys(DATA, 3)
    assert Auditor.heard["trainer-1"][-1] == norm_of(records["trainer-1"].state.values())
    expected = oracle.fedavg(classifier(), DATA, seed=8, rounds=3, epochs=1)[-1]
    assert oracle.largest_difference(torch.load(tmp_path / "last.pt", weights_only=True), expected) < 1e-6


def test_a_users_function_that_is_not_bound_does_not_run(tmp_path: Path) -> None:
    Auditor.heard.clear()
    layout = two_tier(2, trainer=ReportingTrainer)
    records = federate(layout, replace(job(tmp_path), settings=replace(SETTINGS, rounds=1)))
    assert {name: record.error for name, record in records.items()} == dict.fromkeys(records)
    assert Auditor.heard == {}
