import math
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch import Trainer as Lightning
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from roles import seeds
from roles.algorithms.fedavg import FedAvg
from roles.context import Context
from roles.errors import BadModel
from roles.fit import Evaluation, LocalTraining, build_seeded
from roles.settings import Settings
from tests.roles import oracle
from tests.roles.federation import Record, Reporter
from tests.roles.specimens import Classifier, Points, classifier, points
from transports.errors import Aborted
from transports.inproc import Hub, InprocEndpoint

DATA = Points(1, 23)


def context_for(
    settings: Settings | None = None,
    *,
    build_module: Callable[[], LightningModule] | None = None,
    options: Callable[[], Mapping[str, Any]] = dict,
    record: Record | None = None,
) -> Context:
    return Context(
        name="trainer-0",
        role="trainer",
        index=0,
        endpoint=InprocEndpoint("trainer-0", Hub()),
        channels={},
        tags={},
        peers={},
        groups={},
        settings=settings or Settings(seed=5, epochs=2),
        strategy=FedAvg(),
        reporter=Reporter(record or Record()),
        build_module=build_module,
        build_trainer_options=options,
    )


def state_of(module: LightningModule) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def twins(build: Callable[[], Classifier]) -> tuple[Classifier, Classifier]:
    """Two modules with the same weights."""
    one, other = build(), build()
    other.load_state_dict(one.state_dict())
    return one, other


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_rounds_of_fit_equal_a_plain_loop_to_the_bit(momentum: float) -> None:
    module, plain = twins(classifier(momentum=momentum))
    training = LocalTraining(context_for(), module, DATA)
    for round in (1, 2, 3):
        training.fit(round)
        oracle.train_locally(plain, DATA, seed=5, worker="trainer-0", round=round, epochs=2)
        assert oracle.same_bits(state_of(module), state_of(plain)), round


def test_a_round_does_not_depend_on_what_ran_before_it_in_the_process() -> None:
    module, other = twins(classifier())
    before = state_of(module)
    fresh = LocalTraining(context_for(), module, DATA)
    fresh.fit(2)
    used = LocalTraining(context_for(), other, DATA)
    used.fit(1)
    other.load_state_dict(before)
    torch.rand(17)
    used.fit(2)
    assert oracle.same_bits(state_of(module), state_of(other))


def test_a_kept_momentum_goes_on_where_the_last_round_ended() -> None:
    module, plain = twins(classifier(momentum=0.9))
    training = LocalTraining(context_for(Settings(seed=5, epochs=2, optimizer="keep")), module, DATA)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    reset = LocalTraining(context_for(), twins(classifier(momentum=0.9))[0], DATA)
    reset.module.load_state_dict(module.state_dict())
    for round in (1, 2, 3):
        training.fit(round)
        reset.fit(round)
        seeds.apply(seeds.derive(5, "trainer-0", round))
        oracle.fit_with(plain, DATA, optimizer, 2)
        assert oracle.same_bits(state_of(module), state_of(plain)), round
    assert not oracle.same_bits(state_of(module), state_of(reset.module))


class Rates(Callback):
    """Notes epoch, step and learning rate at the start of each epoch."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, float]] = []

    def on_train_epoch_start(self, trainer: Lightning, pl_module: LightningModule) -> None:
        self.seen.append((trainer.current_epoch, trainer.global_step, trainer.optimizers[0].param_groups[0]["lr"]))


@pytest.mark.parametrize(("optimizer", "second"), [("reset", (1.0, 0.5)), ("keep", (0.25, 0.125))])
def test_every_round_starts_at_epoch_and_step_zero_and_schedules_follow_the_optimizer(
    optimizer: Any, second: tuple[float, float]
) -> None:
    module = classifier(lr=1.0)()
    module.gamma = 0.5
    rates = Rates()
    settings = Settings(seed=5, epochs=2, optimizer=optimizer)
    training = LocalTraining(context_for(settings, options=lambda: {"callbacks": [rates]}), module, DATA)
    training.fit(1)
    training.fit(2)
    assert rates.seen == [(0, 0, 1.0), (1, 5, 0.5), (0, 0, second[0]), (1, 5, second[1])]


def test_a_single_callback_and_any_option_of_lightnings_trainer_are_taken() -> None:
    rates = Rates()
    options = {"callbacks": rates, "max_epochs": 1, "limit_train_batches": 2}
    LocalTraining(context_for(options=lambda: dict(options)), classifier()(), DATA).fit(1)
    assert [(epoch, step) for epoch, step, _ in rates.seen] == [(0, 0)]


def test_a_fit_reports_its_epochs_and_returns_what_was_logged() -> None:
    record = Record()
    values = LocalTraining(context_for(record=record), classifier()(), DATA).fit(1)
    assert record.epochs == [1, 2]
    assert set(values) == {"train_loss", "fit_seconds"}
    assert all(math.isfinite(value) and value > 0 for value in values.values())


class AbortAt(Callback):
    """Ends the job for the worker in the middle of an epoch."""

    def __init__(self, aborted: threading.Event, batch: int) -> None:
        self.aborted, self.batch = aborted, batch
        self.batches = 0

    def on_train_batch_start(self, trainer: Lightning, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.batches += 1
        if batch_idx == self.batch:
            self.aborted.set()


def test_the_end_of_the_job_ends_a_fit_between_two_batches() -> None:
    stopper = AbortAt(threading.Event(), 2)
    context = context_for(options=lambda: {"callbacks": [stopper]})
    training = LocalTraining(context, classifier()(), DATA)
    stopper.aborted = context.aborted
    with pytest.raises(Aborted, match="the job is over"):
        training.fit(1)
    assert stopper.batches == 3


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(points(0, 5))


@pytest.mark.parametrize(
    ("loader", "text"),
    [
        (DataLoader(Stream(), batch_size=2), "has no length"),
        (DataLoader(TensorDataset(torch.empty(0, 4)), batch_size=2), "is empty"),
        ([torch.zeros(3)], "returns a list; a worker trains on one torch DataLoader"),
    ],
)
def test_training_data_without_a_number_of_samples_is_an_error_that_says_so(loader: Any, text: str) -> None:
    class Data(LightningDataModule):
        def train_dataloader(self) -> Any:
            return loader

    with pytest.raises(BadModel, match=text):
        LocalTraining(context_for(), classifier()(), Data())


class Prepared(Points):
    """Has its data only after the hooks of a data module ran in their order."""

    def __init__(self) -> None:
        super().__init__(3, 9)
        self.hooks: list[str] = []

    def prepare_data(self) -> None:
        self.hooks.append("prepare_data")

    def setup(self, stage: str) -> None:
        assert "prepare_data" in self.hooks
        self.hooks.append(stage)


def test_the_hooks_of_a_data_module_run_before_its_loaders_are_asked_for() -> None:
    data = Prepared()
    training = LocalTraining(context_for(), classifier()(), data)
    assert training.samples == 9
    assert data.hooks == ["prepare_data", "fit"]
    data = Prepared()
    assert torch.equal(Evaluation(context_for(), classifier()(), data).example(), points(10_000, 30)[:2][0])
    assert data.hooks == ["prepare_data", "test"]


def test_a_random_cut_of_the_data_follows_the_seed_of_the_worker() -> None:
    class Cut(Points):
        def setup(self, stage: str) -> None:
            self.samples = int(torch.randint(5, 5_000, ()))

    found = []
    for noise in range(2):
        torch.manual_seed(noise)
        found.append(LocalTraining(context_for(), classifier()(), Cut(0, 1)).samples)
    assert found[0] == found[1]


def test_a_test_gives_what_the_module_logs_and_leaves_the_weights_alone() -> None:
    module = classifier()()
    before = state_of(module)
    inputs, labels = points(10_000, 30)[:]
    metrics = Evaluation(context_for(), module, DATA).test(1)
    with torch.no_grad():
        outputs = module(inputs)
    accuracy = float((outputs.argmax(1) == labels).float().mean())
    loss = float(torch.nn.functional.cross_entropy(outputs, labels))
    assert metrics == pytest.approx({"loss": loss, "accuracy": accuracy}, abs=1e-6)
    assert oracle.same_bits(before, state_of(module))


def test_a_module_that_logs_nothing_in_its_test_is_an_error() -> None:
    class Mute(Classifier):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            self(batch[0])

    with pytest.raises(BadModel, match=r"Mute\.test_step logs no metric"):
        Evaluation(context_for(), Mute(torch.nn.Linear(4, 3)), DATA).test(1)


@pytest.mark.parametrize(
    ("loader", "example"),
    [
        (DataLoader(TensorDataset(torch.ones(5, 4)), batch_size=3), [[1.0] * 4] * 2),
        ([DataLoader(torch.ones(5, 4), batch_size=1)], [[1.0] * 4]),  # type: ignore[arg-type]
        (DataLoader([{"x": 1}], batch_size=1), None),  # type: ignore[arg-type]
        (DataLoader([], batch_size=1), None),  # type: ignore[arg-type]
    ],
)
def test_the_example_is_two_inputs_where_the_batch_holds_tensors(loader: Any, example: Any) -> None:
    class Data(LightningDataModule):
        def test_dataloader(self) -> Any:
            return loader

    found = Evaluation(context_for(), classifier()(), Data()).example()
    assert (None if found is None else found.tolist()) == example


def test_every_worker_builds_the_same_module_and_keeps_its_random_state() -> None:
    torch.manual_seed(1)
    one = build_seeded(context_for(build_module=classifier()))
    drawn = torch.rand(3)
    other = build_seeded(context_for(build_module=classifier()))
    assert oracle.same_bits(state_of(one), state_of(other))
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), drawn)
    different = build_seeded(context_for(Settings(seed=6), build_module=classifier()))
    assert not oracle.same_bits(state_of(one), state_of(different))


def test_a_role_without_a_module_says_what_to_set() -> None:
    with pytest.raises(BadModel, match=r"trainer-0 needs a module: set model\.module"):
        build_seeded(context_for())
