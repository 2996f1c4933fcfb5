"""Local training and evaluation with Lightning: one `Trainer` for the whole job, nothing it was not asked for."""

import copy
import time
from collections.abc import Mapping, Sized
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch import Trainer as Lightning
from torch import Tensor
from torch.utils.data import DataLoader

from roles import seeds
from roles import state as states
from roles.context import Context
from roles.errors import BadModel
from roles.fitters import Fitter, lendable
from roles.keep import Stateful
from roles.lean import lean
from roles.part import Local, Update
from roles.pristine import Brought, brings_callbacks, from_lightning
from roles.settings import Share
from transports.errors import Aborted
from transports.message import Message

QUIET: Mapping[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "devices": 1,
}
"""Options of Lightning's `Trainer` unless the configuration says otherwise."""


class _Link(Callback):
    """Ties a fit to the job: reports epochs, and ends it between two batches when the job is over.

    That is the only way to stop a worker that is a thread.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        if self._context.aborted.is_set():
            raise Aborted("the job is over")

    def on_train_epoch_end(self, trainer: Lightning, pl_module: LightningModule) -> None:  # noqa: ARG002 - Lightning's signature
        self._context.reporter.progress(trainer.current_epoch + 1, self._context.settings.epochs)


class _KeepOptimizer(Callback):
    """Carries optimizer and scheduler state from one fit to the next."""

    def __init__(self) -> None:
        self._optimizers: list[dict[str, Any]] = []
        self._schedulers: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        """What the next fit starts from: states of optimizers and schedulers."""
        return {"optimizers": self._optimizers, "schedulers": self._schedulers}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self._optimizers, self._schedulers = list(state_dict["optimizers"]), list(state_dict["schedulers"])

    def on_fit_start(self, trainer: Lightning, pl_module: LightningModule) -> None:  # noqa: ARG002 - Lightning's signature
        for optimizer, state in zip(trainer.optimizers, self._optimizers, strict=False):
            optimizer.load_state_dict(state)
        for config, state in zip(trainer.lr_scheduler_configs, self._schedulers, strict=False):
            config.scheduler.load_state_dict(state)

    def on_train_end(self, trainer: Lightning, pl_module: LightningModule) -> None:  # noqa: ARG002 - Lightning's signature
        self._optimizers = [copy.deepcopy(optimizer.state_dict()) for optimizer in trainer.optimizers]
        self._schedulers = [copy.deepcopy(config.scheduler.state_dict()) for config in trainer.lr_scheduler_configs]


class LocalEntries:
    """The part of a module's state that is not exchanged, and so is the worker's own."""

    def __init__(self, module: LightningModule, share: Share) -> None:
        self._module = module
        exchanged = {name for group in states.shared_state(module, share).values() for name in group}
        own = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
        self.names = tuple(name for name in own if name not in exchanged)

    def state_dict(self) -> dict[str, Tensor]:
        """Its tensors by name."""
        state = self._module.state_dict()
        return {name: state[name] for name in self.names}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy tensors back into the module."""
        states.load_shared(self._module, {"own": state})


class LocalTraining:
    """A module, its data and one reused Lightning trainer.

    Each fit starts from the generators seeded with (job seed, worker, round), from epoch 0 and step 0, so that a
    round is the same whatever ran before it in this process.
    """

    def __init__(self, context: Context, module: LightningModule, data: LightningDataModule) -> None:
        self.context = context
        self.module = module
        self.data = data
        settings = context.settings
        options = {**QUIET, "max_epochs": settings.epochs, **context.build_trainer_options()}
        own = options.pop("callbacks", None) or []
        self.clients = [client for part in context.parts if (client := part.client()) is not None]
        """The client halves of strategy, selector, sampler and privacy, in this order."""
        callbacks = [*([own] if isinstance(own, Callback) else own), *self.clients]
        if settings.optimizer == "keep":
            callbacks.append(_KeepOptimizer())
        self._callbacks = callbacks
        self._brought = Brought() if brings_callbacks(module) else None
        self._attached = [*callbacks, _Link(context)] if self._brought is None else [self._brought, *callbacks, _Link(context)]
        self._logged = 0
        """The step that loggers are at. A worker that is started anew has new logs."""
        self._options = options
        # Callbacks of the user may depend on their own trainer.
        shared = lendable(options) and not own
        self._own = None if shared else Fitter.of(_with_folder(options, context), self._attached)
        with self._fitter():
            pass  # options that Lightning does not take are found now
        seeds.apply(seeds.derive(settings.seed, context.name, 0))
        self.samples = _samples(data)
        simulated = settings.simulated
        self.local = Local(
            worker=context.name,
            module=module,
            data=data,
            parameters=states.shared_parameters(module, settings.share),
            samples=self.samples,
            seed=settings.seed,
            epochs=settings.epochs,
            compute=None if simulated is None else lambda at: simulated.span(context.name, at).compute,
        )
        for client in self.clients:
            client.begin(self.local)

    def remembered(self) -> dict[str, Stateful]:
        """Name -> what goes from one round into the next: callbacks and data with a state, entries that are not exchanged."""
        parts: dict[str, Stateful] = {
            f"callback-{index}-{callback.state_key}": callback
            for index, callback in enumerate(self._callbacks)
            if type(callback).state_dict is not Callback.state_dict and not from_lightning(callback)
        }
        if type(self.data).state_dict is not LightningDataModule.state_dict:
            parts["data"] = self.data
        own = LocalEntries(self.module, self.context.settings.share)
        return {**parts, "own-entries": own} if own.names else parts

    def fit(self, round: int, *, turn: int = 0) -> dict[str, float]:
        """Train for one round; `turn`: how often that was done and counted already.

        Returns:
            What the module logged while training (last values) and `fit_seconds`.
        """
        began = time.monotonic()
        seeds.apply(seeds.derive(self.context.settings.seed, self.context.name, round, *([turn] if turn else [])))
        with self._fitter() as fitter:
            if self._brought is not None:
                self._brought.others = vars(fitter.trainer)["callbacks"]
            values = fitter.fit(self.module, self._data(round), logged=self._logged)
            self._logged = fitter.logged
        return {**values, "fit_seconds": time.monotonic() - began}

    def _fitter(self) -> AbstractContextManager[Fitter]:
        if self._own is None:
            return self.context.fitters.lent(self._options, self._attached, self.context.own_folder)
        self._own.reset()
        return nullcontext(self._own)

    def _data(self, round: int) -> LightningDataModule:
        local = self.local
        for client in self.clients:
            local = replace(local, data=client.loader_data(local, round))
        return local.data

    def receive(self, model: Message) -> None:
        """Show the client halves a model that has come and is loaded."""
        for client in self.clients:
            client.receive(self.local, model)

    def answer(self, model: Message) -> dict[str, float]:
        """What the client halves answer to a survey."""
        seeds.apply(seeds.derive(self.context.settings.seed, self.context.name, model.round, "survey"))
        return {name: value for client in self.clients for name, value in client.answer(self.local, model).items()}

    def refused(self) -> None:
        """Tell the client halves that the last update did not count."""
        for client in self.clients:
            client.refused(self.local)

    def finish(self, update: Update) -> None:
        """Let the client halves complete the update of a model that is trained."""
        for client in self.clients:
            client.finish(self.local, update)


class Evaluation:
    """Tests a module on held-out data with one reused Lightning trainer."""

    def __init__(self, context: Context, module: LightningModule, data: LightningDataModule) -> None:
        self.context = context
        self.module = module
        self.data = data
        options = {
            name: value for name, value in context.build_trainer_options().items() if name not in ("callbacks", "max_epochs")
        }
        self._trainer = Lightning(**lean(_with_folder({**QUIET, **options}, context)))

    def test(self, round: int) -> dict[str, float]:
        """Metrics of the module as it is now: what its `test_step` logs, averaged as Lightning does.

        Raises:
            BadModel: the module logs nothing in `test_step`.
        """
        seeds.apply(seeds.derive(self.context.settings.seed, "evaluate", round))
        # No fit counts the steps of a trainer that only tests: loggers get the round as theirs.
        self._trainer.fit_loop.epoch_loop._batches_that_stepped = round  # noqa: SLF001 - no other way
        results = self._trainer.test(self.module, datamodule=self.data, verbose=False)
        metrics = {name: float(value) for result in results for name, value in result.items()}
        if not metrics:
            raise BadModel(f"{type(self.module).__name__}.test_step logs no metric; log what the global model is judged by")
        return metrics

    @property
    def forks(self) -> bool:
        """Whether testing starts processes that load data: those are only started from a process's main thread."""
        self.data.prepare_data()
        self.data.setup("test")
        loaders = self.data.test_dataloader()
        return any(
            getattr(loader, "num_workers", 0) > 0 for loader in (loaders if isinstance(loaders, list | tuple) else [loaders])
        )

    def example(self) -> Any:
        """Two samples of the input of the first test batch, on the CPU; None where the batch is of an unknown kind."""
        self.data.prepare_data()
        self.data.setup("test")
        loader = self.data.test_dataloader()
        batch = next(iter(loader[0] if isinstance(loader, list | tuple) else loader), None)
        inputs = batch[0] if isinstance(batch, list | tuple) else batch
        return inputs[:2].detach().cpu().clone() if isinstance(inputs, Tensor) else None


def _with_folder(options: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """Options of Lightning's `Trainer` that write into the worker's own folder where they do not say where."""
    if options.get("default_root_dir") is not None or context.own_folder is None:
        return dict(options)
    return {**options, "default_root_dir": str(context.own_folder)}


def _samples(data: LightningDataModule) -> int:
    """Training samples of a worker, the n_k of federated averaging: the length of its training dataset.

    Raises:
        BadModel: the loader has no length, or the dataset is empty.
    """
    data.prepare_data()
    data.setup("fit")
    loader = data.train_dataloader()
    if not isinstance(loader, DataLoader):
        raise BadModel(f"train_dataloader() returns a {type(loader).__name__}; a worker trains on one torch DataLoader")
    try:
        samples = len(cast("Sized", loader.dataset))
    except TypeError as error:
        raise BadModel("the training dataset has no length: updates cannot be weighted by samples") from error
    if samples == 0:
        raise BadModel("the training dataset is empty")
    return samples


def build_seeded(context: Context) -> LightningModule:
    """The module as every worker of the job builds it: generators seeded with (job seed, "model").

    Raises:
        BadModel: the context has none.
    """
    if context.build_module is None:
        raise BadModel(f"{context.name} needs a module: set model.module")
    with torch.random.fork_rng(devices=[]):
        seeds.apply(seeds.derive(context.settings.seed, "model"))
        return context.build_module()
