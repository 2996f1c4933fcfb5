"""A round is a training of its own to what comes from Lightning, and one of many to the user's own callbacks."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch import Trainer as Lightning
from lightning.pytorch.callbacks import (
    Checkpoint,
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LambdaCallback,
    ModelCheckpoint,
    ModelPruning,
    StochasticWeightAveraging,
    Timer,
)
from torch import Tensor

from roles.fit import LocalTraining
from roles.fitters import Fitters
from roles.part import Client
from roles.pristine import from_lightning
from tests.roles.fitting import ROUNDS, alone, context_of, equal, network, rounds_of
from tests.roles.specimens import Classifier, Points

EPOCHS = 5
DATA = Points(1, 20)
LOSS = "train_loss"

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*is smaller than the logging interval")


class Stopping(EarlyStopping):
    """A user's kind of Lightning's: counts the fits it was told of."""

    def __init__(self) -> None:
        super().__init__(LOSS, patience=2, min_delta=1e9, check_on_train_epoch_end=True)
        self.fits = 0

    def on_fit_start(self, trainer: Lightning, pl_module: LightningModule) -> None:
        self.fits += 1


class Epochs(Callback):
    """A user's own: how many epochs each of all fits had."""

    def __init__(self) -> None:
        self.of: list[int] = []

    def on_fit_start(self, trainer: Lightning, pl_module: LightningModule) -> None:
        self.of.append(0)

    def on_train_epoch_end(self, trainer: Lightning, pl_module: LightningModule) -> None:
        self.of[-1] += 1


class Bringing(Classifier):
    """Brings what it was given, new or the same in each fit."""

    def __init__(self, bring: Callable[[], Sequence[Callback]]) -> None:
        super().__init__(network(), momentum=0.9)
        self.bring = bring

    def configure_callbacks(self) -> Sequence[Callback]:
        return self.bring()


KINDS: dict[str, Callable[[], Callback]] = {
    "weight averaging": lambda: StochasticWeightAveraging(0.05, swa_epoch_start=2, annealing_epochs=1),
    "moving average": lambda: EMAWeightAveraging(decay=0.5),
    "early stopping": lambda: EarlyStopping(LOSS, patience=2, min_delta=1e9, check_on_train_epoch_end=True),
    "a kind of it": Stopping,
    "accumulation": lambda: GradientAccumulationScheduler({0: 2, 3: 4}),
    "pruning": lambda: ModelPruning("l1_unstructured", amount=0.2, parameter_names=["weight"]),
}


def bringing(make: Callable[[], Callback], way: str) -> tuple[LightningModule, list[Callback]]:
    """A module, and callbacks for the options of its trainer."""
    if way == "configured":
        return Bringing(list), [make()]
    same = make()
    return Bringing(lambda: [same if way == "brought" else make()]), []


@pytest.mark.parametrize("way", ["configured", "brought", "brought anew"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_each_round_with_a_callback_of_lightnings_is_a_training_of_its_own(kind: str, way: str) -> None:
    make = KINDS[kind]
    module, callbacks = bringing(make, way)
    training = LocalTraining(context_of(options={"callbacks": callbacks} if callbacks else {}, epochs=EPOCHS), module, DATA)
    plain = Classifier(network(), momentum=0.9)
    for round in ROUNDS:
        plain.load_state_dict(module.state_dict())
        expected = alone(plain, DATA, round, [make()], epochs=EPOCHS)
        training.fit(round)
        assert equal(dict(module.state_dict()), expected), round


def test_workers_that_share_a_trainer_each_have_their_own_callbacks_begin_anew() -> None:
    fitters, stopping = Fitters(), [Stopping(), Stopping()]
    modules = [Bringing(lambda each=each: [each]) for each in stopping]  # type: ignore[misc]
    both = [LocalTraining(context_of(f"t-{at}", epochs=EPOCHS, fitters=fitters), each, DATA) for at, each in enumerate(modules)]
    for round in ROUNDS:
        for each in both:
            each.fit(round)
    assert both[0].module.trainer is both[1].module.trainer
    assert [(each.fits, each.stopped_epoch) for each in stopping] == [(1, 2)] * 2


def test_a_user_s_own_callback_goes_on_over_all_rounds_beside_one_of_lightnings() -> None:
    stopping, epochs = Stopping(), Epochs()
    options = {"callbacks": [stopping, epochs]}
    training = LocalTraining(context_of(options=options, epochs=EPOCHS), Classifier(network()), DATA)
    rounds_of(training)
    assert epochs.of == [3, 3, 3]
    assert stopping.fits == 1


def test_what_begins_anew_is_not_remembered_with_the_worker() -> None:
    class Lasting(Epochs):
        def state_dict(self) -> dict[str, Any]:
            return {"of": self.of}

    options = {"callbacks": [Stopping(), Lasting()]}
    remembered = LocalTraining(context_of(options=options), Classifier(network()), DATA).remembered()
    assert [type(each) for each in remembered.values()] == [Lasting]


@pytest.mark.filterwarnings("ignore:.*exists and is not empty")
def test_a_checkpoint_of_every_epoch_is_written_in_every_round(tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path, save_top_k=-1)
    options = {"callbacks": [saving], "enable_checkpointing": True}
    training = LocalTraining(context_of(options=options, epochs=1), Classifier(network()), DATA)
    counts = []
    for round in ROUNDS:
        training.fit(round)
        counts.append(len(list(tmp_path.glob("*.ckpt"))))
    assert counts == [1, 2, 3]
    weights = torch.load(saving.best_model_path, weights_only=True)["state_dict"]
    assert equal(weights, training.module.state_dict())


class Slow(Classifier):
    """Every step takes a second by the clock."""

    def __init__(self, clock: SimpleNamespace) -> None:
        super().__init__(network())
        self.clock = clock
        self.steps = 0

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.steps += 1
        self.clock.now += 1.0
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(("limit", "shared"), [("00:00:00:03", True), ({"seconds": 3}, False)])
def test_a_limit_of_time_is_one_of_each_round(limit: Any, shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr("lightning.pytorch.callbacks.timer.time", clock)
    fitters, modules = Fitters(), [Slow(clock), Slow(clock)]
    options = {"max_time": limit}
    both = [LocalTraining(context_of(f"t-{at}", options, fitters=fitters), each, DATA) for at, each in enumerate(modules)]
    for round in ROUNDS:
        for each in both:
            each.fit(round)
        assert [each.steps for each in modules] == [3 * round] * 2
        clock.now += 1000
    assert (both[0].module.trainer is both[1].module.trainer) is shared


def test_what_a_module_brings_is_there_in_the_fits_it_brings_it_to() -> None:
    class Callbacks(Callback):
        def __init__(self) -> None:
            self.counts: list[int] = []

        def on_train_start(self, trainer: Lightning, pl_module: LightningModule) -> None:
            attached: Any = trainer
            self.counts.append(len(attached.callbacks))

    rounds = iter([[Stopping(), Callback()], [Callback()], []])
    epochs, callbacks = Epochs(), Callbacks()
    options = {"callbacks": [epochs, callbacks]}
    training = LocalTraining(context_of(options=options, epochs=EPOCHS), Bringing(lambda: next(rounds)), DATA)
    rounds_of(training)
    assert epochs.of == [3, 5, 5]
    first, second, third = callbacks.counts
    assert (first - third, second - third) == (2, 1)


def test_parts_of_a_module_that_its_own_callback_refers_to_stay_those_of_the_module() -> None:
    module = Bringing(lambda: [pruning])
    layer = module.get_submodule("net.0")
    pruning = ModelPruning("l1_unstructured", parameters_to_prune=[(layer, "weight")], amount=0.5)
    training = LocalTraining(context_of(), module, DATA)
    for round in ROUNDS:
        with torch.no_grad():
            layer.get_parameter("weight").fill_(1.0)
        training.fit(round)
        assert int(torch.count_nonzero(layer.get_parameter("weight"))) == 32 // 2**2, round  # each epoch prunes half


def test_functions_that_a_callback_was_given_are_not_taken_back() -> None:
    class Notes:
        def __init__(self) -> None:
            self.count = 0

        def note(self, *_: Any) -> None:
            self.count += 1

    notes = Notes()
    options = {"callbacks": [LambdaCallback(on_fit_start=notes.note)]}
    rounds_of(LocalTraining(context_of(options=options), Classifier(network()), DATA))
    assert notes.count == len(ROUNDS)


def test_what_cannot_be_copied_is_named_and_stays_and_all_else_begins_anew(caplog: pytest.LogCaptureFixture) -> None:
    class Locking(Stopping):
        def __init__(self) -> None:
            super().__init__()
            self.lock = threading.Lock()

    locking, epochs = Locking(), Epochs()
    lock = locking.lock
    training = LocalTraining(context_of(options={"callbacks": [locking, epochs]}, epochs=EPOCHS), Classifier(network()), DATA)
    rounds_of(training)
    expected = (
        "Locking.lock cannot be copied (TypeError: cannot pickle '_thread.lock' object): it goes from round to round as it is. "
        "All else of this callback, which comes from Lightning, begins each round anew"
    )
    assert [record.getMessage() for record in caplog.records if record.name == "roles.pristine"] == [expected]
    assert locking.lock is lock
    assert epochs.of == [3, 3, 3]


def test_which_callbacks_come_from_lightning() -> None:
    class Half(Client, EarlyStopping):
        """An algorithm's: it is the worker's over all rounds."""

    class Saving(Checkpoint):
        """A user's kind of Lightning's."""

    assert not any(from_lightning(each) for each in (Callback(), Epochs(), Client(), Half(LOSS)))
    assert all(from_lightning(each) for each in (Stopping(), Saving(), Timer()))
