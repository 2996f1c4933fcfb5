"""A trainer that trains nothing."""

import torch

from roles.algorithms.fedavg import FedAvg
from roles.context import Context
from roles.null import NullTrainer
from roles.settings import Settings
from roles.trainer import Task
from tests.roles.federation import Record, Reporter
from transports.base import ChannelSpec
from transports.inproc import Hub, InprocEndpoint
from transports.message import Message


def trainer() -> NullTrainer:
    return NullTrainer(
        Context(
            name="trainer-0",
            role="trainer",
            index=0,
            endpoint=InprocEndpoint("trainer-0", Hub()),
            channels={"param-channel": ChannelSpec(name="param-channel", group="default", ends=("aggregator-0",))},
            tags={"fetch": ("param-channel",), "upload": ("param-channel",)},
            peers={},
            groups={},
            settings=Settings(),
            strategy=FedAvg(),
            reporter=Reporter(Record()),
        )
    )


def test_it_needs_neither_a_module_nor_data() -> None:
    role = trainer()
    role.prepare()
    assert role.context.build_module is None
    assert role.context.build_data is None
    assert role.samples() == 1


def test_its_update_is_a_copy_of_the_weights_in_memory_of_its_own() -> None:
    weights = {"a": torch.rand(3, 4), "b": torch.arange(5), "c": torch.tensor(2.0)}
    model = Message(kind="weights", round=7, groups={"weights": weights, "frozen": {"d": torch.rand(2)}}).packed()
    update = trainer().train(Task(7, "aggregator-0", model))
    assert (update.kind, update.round, update.is_packed) == ("update", 7, True)
    assert dict(update.scalars) == {"weight": 1.0, "samples": 1, "merged": False}
    assert list(update.groups) == ["weights"]
    assert update.buffer.data_ptr() != model.buffer.data_ptr()
    for name, value in weights.items():
        assert torch.equal(update.groups["weights"][name], value)
