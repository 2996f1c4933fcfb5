"""FedGFT: training that is fair to groups over all clients, not only within each."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch import Trainer as Lightning
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from typing_extensions import override

from roles.algorithms.bias import FAIRNESS, PENALTIES, Bias, Fairness, Penalty, Sensitive, positives, terms
from roles.algorithms.gradients import GradientTerm
from roles.catalogue import TRAITS
from roles.part import Client, Gathered, Local
from roles.strategy import State, Strategy
from transports.message import Message, Scalar

log = logging.getLogger(__name__)
TERMS = ("bias_a", "bias_b", "bias_c", "bias_d")
SAMPLES = "bias_n"


class FedGFT(Strategy):
    """FedAvg whose clients also minimise a penalty on the bias of the global model between two groups.

    Wang, Payani, Lee, Kompella, "Mitigating Group Bias in Federated Learning: Beyond Local Fairness", 2023
    (arXiv:2305.09931): the bias of a binary classifier over the data of all clients follows from sums that each client can
    give, and so does its gradient.

        minimise  sum_k (n_k / n) L_k(w) + gamma J(F(w)),  F = a/b - c/d,  J(F) = F^2 / 2 (`l2`) or |F| (`id`)
        SP  (statistical parity): a/b = E[p | A = 0], c/d = E[p | A = 1], with p the model's probability of class 1
        EOP (equal opportunity):  a/b = E[p | A = 0, y = 1], c/d = E[p | A = 1, y = 1]
        CAL (calibration):        a/b = P(y = 1 | predicted 1, A = 0) = E[p 1(A=0, y=1)] / E[p 1(A=0)], c/d for A = 1

    Each round has two phases: all ends that take part answer with a, b, c, d of the received model over their training data
    (in evaluation mode); then they train, and before each step the gradient of gamma J'(F) (a_B - (a/b) b_B) / b - ... of
    the batch is added to that of the loss, with a, b, c, d of all data as answered. Its mean over all samples of all
    clients is the gradient of gamma J(F) at the received model. It takes a second forward and backward pass over the batch,
    which leaves buffers and generators alone.

    Args:
        fair: which F, "SP" (the default), "EOP" or "CAL".
        gamma: weight of the penalty, from 0; 1.0 by default. "auto": |2 F| of the round. 0 is FedAvg.
        reg: which J, "l2" (the default) or "id".
        sensitive_feature: the column of x where the sensitive attribute A (0 or 1) stands; None, the default: see the next one.
        sensitive_item: the item of the batch (x, y, ...) that is A, from 2; None by default. One of the two must be given.

    The module's `forward(x)` gives one logit a sample, or those of two classes; y is 0 or 1.

    Metric: `bias`, F of the model that the round started from, over the data of all who took part. A round in which one of
    the groups has no sample (with EOP: none with y = 1) is trained without the penalty, and has no `bias`.

    Needs of the topology: synchronous rounds; sums merge through middle aggregators. Updates count by samples.

    Flame's version differs: with CAL its bias stays 0, so that nothing is regularised, and its gradient of CAL has the
    other sign and leaves out that b and d depend on the model; answers are divided by samples before they are sent.
    """

    traits = TRAITS["roles.algorithms.fedgft.FedGFT"]
    sums: ClassVar[tuple[str, ...]] = (*TERMS, SAMPLES)
    weighted_by = "samples"

    def __init__(
        self,
        *,
        fair: Fairness = "SP",
        gamma: float | Literal["auto"] = 1.0,
        reg: Penalty = "l2",
        sensitive_feature: int | None = None,
        sensitive_item: int | None = None,
    ) -> None:
        """See the class.

        Raises:
            ValueError: a key has a value that it cannot have; the text names it.
        """
        if fair not in FAIRNESS:
            raise ValueError(f"FedGFT.fair = {fair!r} must be one of {', '.join(FAIRNESS)}")
        if reg not in PENALTIES:
            raise ValueError(f"FedGFT.reg = {reg!r} must be one of {', '.join(PENALTIES)}")
        if gamma != "auto" and (isinstance(gamma, str) or not 0 <= gamma < float("inf")):
            raise ValueError(f"FedGFT.gamma = {gamma!r} must be a number from 0, or 'auto'")
        if (sensitive_feature is None) == (sensitive_item is None):
            raise ValueError(
                f"FedGFT.sensitive_feature = {sensitive_feature!r} and sensitive_item = {sensitive_item!r}: one of them must say "
                "where the sensitive attribute is"
            )
        if sensitive_item is not None and sensitive_item < 2:  # noqa: PLR2004 - after x and y
            raise ValueError(f"FedGFT.sensitive_item = {sensitive_item!r} must be 2 or more: items 0 and 1 are x and y")
        self._fair: Fairness = fair
        self._gamma = None if gamma == "auto" else float(gamma)
        self._reg: Penalty = reg
        self._sensitive = Sensitive(feature=sensitive_feature, item=sensitive_item)
        self._bias: tuple[int, Bias] | None = None

    @override
    def surveyed(self, gathered: Gathered, round: int) -> None:
        a, b, c, d = (gathered.sums[name] / gathered.sums[SAMPLES] for name in TERMS)
        self._bias = None
        if b > 0 and d > 0:
            self._bias = (round, Bias(a=a, b=b, c=c, d=d))
        else:
            log.warning("round %d has no sample of one of the groups (b %g, d %g): no penalty on its bias", round, b, d)

    @override
    def told(self, round: int) -> Mapping[str, Scalar]:
        if self._bias is None or self._bias[0] != round:
            return {}
        bias = self._bias[1]
        return dict(zip(TERMS, (bias.a, bias.b, bias.c, bias.d), strict=True))

    @override
    def step(self, current: State, gathered: Gathered, round: int) -> State:
        """The mean itself."""
        return gathered.mean

    @override
    def metrics(self) -> Mapping[str, float]:
        return {} if self._bias is None else {"bias": self._bias[1].value}

    @override
    def client(self) -> Client:
        return _BiasPenalty(self._fair, self._gamma, self._reg, self._sensitive)


class _BiasPenalty(GradientTerm):
    """Answers with the terms of the local data, and adds the gradient of the penalty to that of the loss."""

    def __init__(self, fair: Fairness, gamma: float | None, reg: Penalty, sensitive: Sensitive) -> None:
        super().__init__()
        self._fair, self._gamma, self._reg, self._sensitive = fair, gamma, reg, sensitive
        self._bias: Bias | None = None
        self._slope = 0.0
        self._batches: list[Any] = []
        """Those of the next step."""
        self._used = False
        """Whether a step was taken with them."""
        self._gradients: dict[str, Tensor] = {}

    @override
    def answer(self, local: Local, model: Message) -> Mapping[str, float]:
        sums = torch.zeros(len(TERMS), dtype=torch.float64)
        samples = 0
        with _evaluating(local.module):
            for batch in _all_batches(local.data):
                found = self._terms(local.module, _moved(batch, local.module.device))
                sums += torch.stack(found).cpu()
                samples += len(batch[1])
        return {**dict(zip(TERMS, sums.tolist(), strict=True)), SAMPLES: float(samples)}

    @override
    def receive(self, local: Local, model: Message) -> None:
        self._bias, self._slope = None, 0.0
        if all(name in model.scalars for name in TERMS):
            a, b, c, d = (float(model.scalars[name]) for name in TERMS)
            self._bias = Bias(a=a, b=b, c=c, d=d)
            self._slope = self._bias.slope(self._reg, self._gamma)

    @override
    def on_train_batch_start(self, trainer: Lightning, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remember the batch until the step that it is part of."""
        if self._used:
            self._batches.clear()
        self._used = False
        self._batches = [*self._batches, batch][-trainer.accumulate_grad_batches :]

    @override
    def on_before_optimizer_step(self, trainer: Lightning, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Add the gradient of the penalty to those of what this optimizer moves."""
        self._used = True
        self._gradients = self._penalty_gradients(pl_module, trainer.accumulate_grad_batches) if self.adds else {}
        super().on_before_optimizer_step(trainer, pl_module, optimizer)

    @property
    @override
    def adds(self) -> bool:
        return self._bias is not None and self._slope != 0

    @override
    def gradient(self, name: str, parameter: Tensor) -> Tensor:
        return self._gradients[name]

    @override
    def _moved_by(self, optimizer: Optimizer) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, parameter) for name, parameter in super()._moved_by(optimizer) if name in self._gradients)

    @override
    def on_train_end(self, trainer: Lightning, pl_module: LightningModule) -> None:
        """Let go of the last batch."""
        super().on_train_end(trainer, pl_module)
        self._batches, self._gradients, self._used = [], {}, False

    def _penalty_gradients(self, module: LightningModule, accumulated: int) -> dict[str, Tensor]:
        """Of the parameters that the outputs depend on; over several batches as Lightning accumulates: divided by their number."""
        assert self._bias is not None
        devices = [module.device] if module.device.type == "cuda" else []
        penalty = torch.zeros((), dtype=torch.float64, device=module.device)
        with torch.enable_grad(), torch.random.fork_rng(devices=devices):
            for batch in self._batches:
                linear = self._bias.linear(*self._terms(module, batch))
                penalty = penalty + self._slope / (len(batch[1]) * accumulated) * linear
        inputs = {name: parameter for name, parameter in self.local.parameters.items() if parameter.requires_grad}
        if not penalty.requires_grad:
            return {}
        found = torch.autograd.grad(penalty, list(inputs.values()), allow_unused=True)
        return {name: gradient for name, gradient in zip(inputs, found, strict=True) if gradient is not None}

    def _terms(self, module: LightningModule, batch: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        group = self._sensitive.of(batch)
        buffers = {name: value.clone() for name, value in module.named_buffers()}
        return terms(self._fair, positives(functional_call(module, buffers, (batch[0],))), batch[1], group)


def _all_batches(data: LightningDataModule) -> Iterator[Any]:
    """Each training sample once, in the order of the dataset."""
    loader: DataLoader[Any] = data.train_dataloader()
    if loader.batch_size is None:
        return iter(loader)
    return iter(DataLoader(loader.dataset, loader.batch_size, collate_fn=loader.collate_fn))


def _moved(batch: Any, device: torch.device) -> Any:
    if not isinstance(batch, list | tuple):
        return batch
    return [item.to(device) if isinstance(item, Tensor) else item for item in batch]


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training
