"""A pass over the training data beside training."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch import Trainer as Lightning
from lightning.pytorch.utilities.data import extract_batch_size
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor, nn

from roles.errors import BadModel
from roles.rounds.average import accumulator_dtype


def full_gradient(trainer: Lightning, module: LightningModule, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The gradient of the mean training loss over all samples of the round, at the parameters that the module has now.

    Goes through the training data once, calls `training_step` for each batch, and weights batches by their size. Nothing is
    logged; buffers, gradients and torch's generators are afterwards what they were. Call it at the start of a fit.

    Returns:
        Name -> tensor on the CPU in at least float32.

    Raises:
        BadModel: the module steps its optimizers itself, or a `training_step` returns no loss at all.
    """
    if not module.automatic_optimization:
        raise BadModel(
            "SCAFFOLD (option I) calls training_step for a gradient, which here steps optimizers: set algorithm.option=II"
        )
    total = {name: torch.zeros_like(each, dtype=accumulator_dtype(each.dtype)) for name, each in parameters.items()}
    samples, arguments = 0, 2 if is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2) else 1
    devices = [module.device] if module.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), _untouched(module), torch.enable_grad():
        for index, batch in enumerate(_batches(trainer, module)):
            with trainer.strategy.precision_plugin.train_step_context():
                loss = _loss(module.training_step(*(batch, index)[:arguments]))
            size = extract_batch_size(batch)
            if loss is None:
                continue
            samples += size
            # Several names of one parameter are one input.
            inputs = {id(each): each for each in parameters.values() if each.requires_grad}
            found = dict(zip(inputs, torch.autograd.grad(loss, list(inputs.values()), allow_unused=True), strict=True))
            for name, each in parameters.items():
                gradient = found.get(id(each))
                if gradient is not None:
                    total[name].add_(gradient.to_dense() if gradient.is_sparse else gradient, alpha=size)
    if samples == 0:
        raise BadModel(f"{type(module).__name__}.training_step returned no loss in a whole pass over the data")
    return {name: value.div_(samples).cpu() for name, value in total.items()}


def _batches(trainer: Lightning, module: LightningModule) -> Iterator[Any]:
    loader = trainer.datamodule.train_dataloader()  # type: ignore[attr-defined]  # Lightning types its own attribute away
    for batch in loader:
        yield trainer.strategy.batch_to_device(batch, module.device)


def _loss(output: Any) -> Tensor | None:
    loss = output.get("loss") if isinstance(output, Mapping) else output
    return loss if isinstance(loss, Tensor) else None


@contextmanager
def _untouched(module: LightningModule) -> Iterator[None]:
    """Put buffers back afterwards, and log nothing meanwhile."""
    buffers = {name: value.clone() for name, value in module.named_buffers()}
    silent: Any = module
    silent.log = silent.log_dict = lambda *_, **__: None
    try:
        yield
    finally:
        del silent.log, silent.log_dict
        with torch.no_grad():
            for name, value in module.named_buffers():
                value.copy_(buffers[name])
