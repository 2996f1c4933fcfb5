"""A fit with the parts of `roles.lean` is what Lightning's own fit is, hook by hook and bit by bit."""

import contextlib
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch import Trainer as Lightning
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.core.hooks import DataHooks, ModelHooks
from lightning.pytorch.profilers import PassThroughProfiler, SimpleProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import nn

from roles import seeds
from roles.algorithms.fedavg import FedAvg
from roles.context import Context
from roles.fit import QUIET, LocalTraining
from roles.lean import OnCpu, Unprofiled, lean
from roles.settings import Settings
from tests.roles.federation import Record, Reporter
from tests.roles.specimens import Classifier, Points, mlp
from transports.inproc import Hub, InprocEndpoint

EPOCHS = 2


def training_of(module: LightningModule, data: LightningDataModule, **options: Any) -> LocalTraining:
    context = Context(
        name="trainer-0",
        role="trainer",
        index=0,
        endpoint=InprocEndpoint("trainer-0", Hub()),
        channels={},
        tags={},
        peers={},
        groups={},
        settings=Settings(seed=5, epochs=EPOCHS),
        strategy=FedAvg(),
        reporter=Reporter(Record()),
        build_trainer_options=lambda: options,
    )
    return LocalTraining(context, module, data)


def hooks_of(kind: type) -> list[str]:
    return [name for name in vars(kind) if name.startswith("on_") or name in ("setup", "teardown", "prepare_data")]


def noting(kind: type, owner: str, calls: list[str]) -> type:
    """A subclass that notes which of its hooks is called."""

    def noted(name: str) -> Any:
        original = getattr(kind, name)

        def hook(self: Any, *given: Any, **named: Any) -> Any:
            calls.append(f"{owner}.{name}")
            return original(self, *given, **named)

        return hook

    sources = {"callback": (Callback,), "module": (ModelHooks, DataHooks), "data": (DataHooks, LightningDataModule)}[owner]
    extra = ("training_step", "configure_optimizers", "optimizer_step", "backward", "optimizer_zero_grad")
    names = {name for source in sources for name in hooks_of(source)} | set(extra if owner == "module" else ())
    return type(f"Noting{kind.__name__}", (kind,), {name: noted(name) for name in names if hasattr(kind, name)})


def recorded(calls: list[str]) -> tuple[LightningModule, LightningDataModule, Callback]:
    torch.manual_seed(3)
    return noting(Classifier, "module", calls)(mlp()), noting(Points, "data", calls)(1, 13), noting(Callback, "callback", calls)()


@pytest.mark.filterwarnings("ignore:You have overridden")
def test_every_hook_of_lightning_is_called_in_lightnings_order_and_the_weights_are_the_same() -> None:
    expected: list[str] = []
    module, data, callback = recorded(expected)
    seeds.apply(seeds.derive(5, "trainer-0", 1))
    Lightning(**QUIET, max_epochs=EPOCHS, callbacks=[callback]).fit(module, datamodule=data)
    found: list[str] = []
    ours, data, callback = recorded(found)
    training = training_of(ours, data, callbacks=[callback])
    found.clear()  # what building asked the data module
    training.fit(1)
    assert "callback.on_train_batch_end" in found
    assert "module.on_before_zero_grad" in found
    assert found == expected
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize(
    ("options", "strategy", "profiler"),
    [
        ({}, OnCpu, Unprofiled),
        ({"strategy": "auto", "profiler": None}, OnCpu, Unprofiled),
        ({"profiler": "simple"}, OnCpu, SimpleProfiler),
        ({"profiler": PassThroughProfiler()}, OnCpu, PassThroughProfiler),
        ({"strategy": SingleDeviceStrategy()}, SingleDeviceStrategy, Unprofiled),
        ({"strategy": "single_device"}, SingleDeviceStrategy, Unprofiled),
        ({"accelerator": "auto"}, None, Unprofiled),
        ({"devices": 2}, None, Unprofiled),
        ({"num_nodes": 2}, None, Unprofiled),
    ],
)
def test_what_the_options_ask_for_is_what_trains(options: Mapping[str, Any], strategy: type | None, profiler: type) -> None:
    parts = lean({**QUIET, **options})
    if strategy is None:
        assert "strategy" not in parts
        return
    trainer = Lightning(**parts)
    assert type(trainer.strategy) is strategy
    assert type(getattr(trainer, "profiler")) is profiler  # noqa: B009 - Lightning declares it nowhere


def test_the_options_that_were_given_are_left_as_they_are() -> None:
    options = dict(QUIET)
    lean(options)
    assert options == QUIET


class Moved(nn.Module):
    """Counts how often it is moved."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.moves = 0

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self.moves += 1
        return super()._apply(fn, recurse)


class Wrapped(Classifier):
    """Holds a part that counts."""

    def __init__(self) -> None:
        super().__init__(mlp())
        self.part = Moved()


@pytest.mark.parametrize("where", ["cpu", "elsewhere"])
def test_a_module_is_moved_to_the_cpu_only_where_it_is_not_there(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = Wrapped()
    strategy = OnCpu()
    training = training_of(module, Points(1, 13), strategy=strategy, max_epochs=1)
    if where == "elsewhere":
        monkeypatch.setattr(OnCpu, "_there", lambda _: False)
    training.fit(1)
    assert module.part.moves == (0 if where == "cpu" else 2)


def test_parameters_and_buffers_off_the_cpu_count_as_not_there() -> None:
    for part in ("weight", "running"):
        module = Wrapped()
        strategy = OnCpu()
        strategy.connect(module)
        assert strategy._there()
        elsewhere = torch.zeros(3, device="meta")
        if part == "weight":
            module.part.weight = nn.Parameter(elsewhere)
        else:
            module.part.register_buffer("running", elsewhere)
        assert not strategy._there()


def test_the_profiler_that_measures_nothing_lets_errors_through_and_can_be_entered_again_inside() -> None:
    profiler = Unprofiled()
    with contextlib.suppress(KeyError), profiler.profile("outer"), profiler.profile("inner"):
        raise KeyError
    with pytest.raises(KeyError), profiler.profile("alone"):
        raise KeyError


class Epochs(Callback):
    """Notes the epochs that end."""

    def __init__(self) -> None:
        self.ended: list[int] = []

    def on_train_epoch_end(self, trainer: Lightning, pl_module: LightningModule) -> None:
        self.ended.append(trainer.current_epoch)


def test_a_callback_of_the_user_can_end_every_fit_early() -> None:
    stopping = EarlyStopping("train_loss", stopping_threshold=1e9, check_on_train_epoch_end=True)
    epochs = Epochs()
    training = training_of(Classifier(mlp()), Points(1, 13), callbacks=[stopping, epochs], max_epochs=5)
    for round in (1, 2):
        training.fit(round)
    assert epochs.ended == [0, 0]
