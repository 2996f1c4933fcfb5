"""Workers that share one Lightning trainer get what each gets alone."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch import Trainer as Lightning
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import Tensor, nn

from roles.algorithms.fedavg import FedAvg
from roles.algorithms.fedprox import FedProx
from roles.context import Context
from roles.errors import BadModel
from roles.fit import QUIET, LocalTraining
from roles.fitters import Fitters, lendable
from roles.kinds import TRAIN
from roles.rounds.average import WEIGHTS
from roles.settings import Settings
from tests.roles.federation import Record, Reporter
from tests.roles.specimens import CLASSES, Classifier, Points, mlp
from transports.errors import Aborted
from transports.inproc import Hub, InprocEndpoint
from transports.message import Message

ROUNDS = (1, 2, 3)


class Linear(Classifier):
    """Another module, which logs another metric."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(nn.Sequential(net, nn.Linear(CLASSES, CLASSES)), lr=0.3)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("linear_loss", loss, on_epoch=True)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


class Silent(Classifier):
    """Logs nothing."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])


class Meddling(Classifier):
    """Changes its trainer as modules may, and brings callbacks."""

    def on_fit_start(self) -> None:
        trainer: Any = self.trainer
        trainer.limit_train_batches = 1
        trainer.fit_loop.max_epochs = 4
        trainer.gradient_clip_val = 1e-3

    def configure_callbacks(self) -> Sequence[Callback]:
        return [GradientAccumulationScheduler({0: 2})]


class Counting(Callback):
    """Remembers how many batches its own worker trained on, and in which module."""

    def __init__(self) -> None:
        self.batches = 0
        self.modules: set[LightningModule] = set()

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.batches}

    def on_train_batch_end(self, trainer: Lightning, pl_module: LightningModule, *_: Any) -> None:
        self.batches += 1
        self.modules.add(pl_module)


def training_of(
    name: str, module: LightningModule, data: LightningDataModule, fitters: Fitters | None = None, **settings: Any
) -> LocalTraining:
    options = settings.pop("options", {})
    context = Context(
        name=name,
        role="trainer",
        index=0,
        endpoint=InprocEndpoint(name, Hub()),
        channels={},
        tags={},
        peers={},
        groups={},
        settings=Settings(**{"seed": 5, "epochs": 2, **settings}),
        strategy=FedProx(mu=0.5) if name == "proximal" else FedAvg(),
        reporter=Reporter(Record()),
        build_trainer_options=lambda: dict(options),
        fitters=fitters or Fitters(),
    )
    return LocalTraining(context, module, data)


def seeded(kind: type[Classifier], **named: Any) -> Classifier:
    torch.manual_seed(3)
    return kind(mlp(), **named)


def workers(fitters: Fitters | None = None) -> dict[str, LocalTraining]:
    """Workers that differ in module, data, optimizer, metrics, algorithm and options; each alone, or all with `fitters`."""
    short = {"limit_train_batches": 1}
    return {
        "plain": training_of("plain", seeded(Classifier, momentum=0.9), Points(1, 13), fitters),
        "keeps": training_of("keeps", seeded(Classifier, momentum=0.9), Points(2, 17), fitters, optimizer="keep"),
        "meddles": training_of("meddles", seeded(Meddling), Points(3, 15), fitters),
        "adam": training_of("adam", seeded(Linear), Points(4, 11), fitters),
        "silent": training_of("silent", seeded(Silent), Points(5, 12), fitters),
        "proximal": training_of("proximal", seeded(Classifier), Points(6, 14), fitters),
        "one": training_of("one", seeded(Classifier), Points(7, 20), fitters, options=short),
        "whole": training_of("whole", seeded(Classifier), Points(8, 20), fitters, options={"limit_train_batches": 1.0}),
        "long": training_of("long", seeded(Classifier), Points(9, 20), fitters, epochs=3),
    }


def trained(training: LocalTraining, round: int) -> tuple[dict[str, float], dict[str, Tensor]]:
    training.receive(Message(kind=TRAIN, round=round, groups={WEIGHTS: dict(training.module.state_dict())}).packed())
    values = training.fit(round)
    del values["fit_seconds"]
    return values, {name: value.clone() for name, value in training.module.state_dict().items()}


def same(found: tuple[Mapping[str, Any], Mapping[str, Tensor]], expected: tuple[Mapping[str, Any], Mapping[str, Tensor]]) -> bool:
    return found[0] == expected[0] and all(torch.equal(value, expected[1][name]) for name, value in found[1].items())


@pytest.mark.parametrize("order", [1, -1])
def test_workers_that_share_fitters_get_bit_for_bit_what_each_gets_alone(order: int) -> None:
    alone = {name: [trained(each, round) for round in ROUNDS] for name, each in workers().items()}
    together = workers(Fitters())
    for at, round in enumerate(ROUNDS):
        for name in list(together)[::order]:
            assert same(trained(together[name], round), alone[name][at]), (name, round)
    assert alone["silent"][0][0] == {}
    assert set(alone["adam"][0][0]) >= {"linear_loss_epoch"}


def test_a_fit_that_is_broken_off_does_not_spoil_the_next_of_anybody() -> None:
    expected = trained(training_of("second", seeded(Classifier, momentum=0.9), Points(2, 17)), 1)
    fitters = Fitters()
    first = training_of("first", seeded(Classifier), Points(1, 13), fitters)
    second = training_of("second", seeded(Classifier, momentum=0.9), Points(2, 17), fitters)
    again = trained(training_of("first", seeded(Classifier), Points(1, 13)), 1)
    first.context.aborted.set()
    with pytest.raises(Aborted):
        first.fit(1)
    assert same(trained(second, 1), expected)
    first.context.aborted.clear()
    first.module.load_state_dict(seeded(Classifier).state_dict())
    assert same(trained(first, 1), again)


def test_a_module_that_fails_in_the_middle_takes_its_trainer_with_it() -> None:
    class Breaking(Classifier):
        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            if batch_idx == 1:
                raise BadModel("diverged")
            return super().training_step(batch, batch_idx)

    fitters = Fitters()
    breaking = training_of("first", seeded(Breaking), Points(1, 13), fitters)
    other = training_of("second", seeded(Classifier), Points(2, 17), fitters)
    with pytest.raises(BadModel, match="diverged"):
        breaking.fit(1)
    expected = trained(training_of("second", seeded(Classifier), Points(2, 17)), 1)
    assert same(trained(other, 1), expected)
    assert breaking.module.trainer is not other.module.trainer


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit, ValueError])
def test_what_ends_a_fit_in_a_thread_is_what_the_module_raised(raised: type[BaseException]) -> None:
    class Ending(Classifier):
        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            raise raised("enough")

    training, ends = training_of("first", seeded(Ending), Points(1, 13)), []

    def fit() -> None:
        with pytest.raises(raised, match="enough") as caught:
            training.fit(1)
        ends.append(caught.type)

    thread = threading.Thread(target=fit)
    thread.start()
    thread.join(60)
    assert ends == [raised]


def test_callbacks_of_the_user_see_their_own_worker_only() -> None:
    fitters, callbacks = Fitters(), [Counting(), Counting()]
    both = [
        training_of(f"trainer-{at}", seeded(Classifier), Points(at, 10 + 5 * at), fitters, options={"callbacks": callback})
        for at, callback in enumerate(callbacks)
    ]
    for round in ROUNDS:
        for each in both:
            each.fit(round)
    assert [callback.batches for callback in callbacks] == [3 * 2 * 2, 3 * 2 * 3]
    assert [callback.modules for callback in callbacks] == [{each.module} for each in both]


def test_workers_with_the_same_options_share_one_trainer_and_others_do_not() -> None:
    together = workers(Fitters())
    for each in together.values():
        trained(each, 1)
    trainers = {name: id(each.module.trainer) for name, each in together.items()}
    same_options = ("plain", "keeps", "meddles", "adam", "silent", "proximal")
    assert len({trainers[name] for name in same_options}) == 1
    assert len(set(trainers.values())) == 4


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, True),
        ({"precision": "bf16-mixed", "gradient_clip_val": 0.5}, True),
        ({"precision": "16-mixed"}, False),
        ({"precision": 16}, False),
        ({"logger": True}, False),
        ({"enable_checkpointing": True}, False),
        ({"plugins": [object()]}, False),
        ({"devices": [0]}, False),
    ],
)
def test_only_what_holds_nothing_of_a_worker_is_lent(options: Mapping[str, Any], expected: bool) -> None:
    assert lendable({**QUIET, **options}) is expected


def test_a_trainer_that_is_asked_for_while_it_is_lent_is_another_one() -> None:
    fitters = Fitters()
    with fitters.lent(QUIET, []) as first, fitters.lent(QUIET, []) as second:
        assert first.trainer is not second.trainer


def test_what_a_module_sets_on_a_shared_trainer_is_not_there_for_the_next_worker() -> None:
    seen: dict[str, list[bool]] = {"leaves": [], "looks": []}

    class Leaving(Classifier):
        """Sets new attributes, replaces old ones, adds a callback of its own; sees what it finds of that before."""

        name = "leaves"

        def on_fit_start(self) -> None:
            trainer: Any = self.trainer
            found = [hasattr(each, "left") for each in (trainer, trainer.fit_loop, trainer.fit_loop.epoch_loop)]
            left = any(isinstance(each, Left) for each in trainer.callbacks)
            seen[self.name].append(any(found) or left or trainer.fit_loop.epoch_loop.max_steps == 1)

        def on_train_end(self) -> None:
            trainer: Any = self.trainer
            for each in (trainer, trainer.fit_loop, trainer.fit_loop.epoch_loop):
                each.left = torch.zeros(3)
            trainer.fit_loop.epoch_loop.max_steps = 1
            trainer.callbacks.append(Left())

    class Left(Callback):
        pass

    class Looking(Leaving):
        name = "looks"

    fitters = Fitters()
    both = [training_of(kind.name, seeded(kind), Points(1, 13), fitters) for kind in (Leaving, Looking)]
    for round in ROUNDS:
        for each in both:
            each.fit(round)
    assert both[0].module.trainer is both[1].module.trainer
    assert seen == {"leaves": [False] * 3, "looks": [False] * 3}
