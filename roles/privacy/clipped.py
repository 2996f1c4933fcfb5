"""The client half of differential privacy: an update is clipped as one vector, and gets its noise where clients add it."""

from collections.abc import Iterator, Mapping
from typing import Final

from torch import Tensor
from typing_extensions import override

from roles.errors import BadModel
from roles.part import Client, Local, Update
from roles.privacy.clipping import difference, moved, real, scaled, update_norm
from roles.privacy.noise import Noise, SeededNoise, SystemNoise
from roles.rounds.average import WEIGHTS, averaged
from transports.message import Message

CLIP, NOISE, COUNT_NOISE = "dp_clip", "dp_noise", "dp_count_noise"
"""Scalars of a model: the clip; the standard deviations that each client adds to its update and to its count."""
WITHIN: Final = "dp_within"
"""Scalar of an update: with adaptive clipping 1 if its norm was at most the clip, else 0; without, always 0."""


class ClippedUpdates(Client):
    """Clips the update of a round, and adds noise where the model says so.

    The vector is all that goes up: the difference of the weights from the received ones, and the entries of further groups as
    they are sent. So none of them can move its sum by more than the clip, nor can all of them together.

    Args:
        noisy: whether anything is promised: then nothing may go up that is neither clipped nor gets noise.
        adaptive: whether updates say if they were within the clip.
        reproducible: whether noise comes from the job's seed.
    """

    def __init__(self, *, noisy: bool, adaptive: bool, reproducible: bool) -> None:
        self._noisy, self._adaptive, self._reproducible = noisy, adaptive, reproducible
        self._model: Message | None = None

    @override
    def receive(self, local: Local, model: Message) -> None:
        self._model = model

    @override
    def finish(self, local: Local, update: Update) -> None:
        """Clip, add noise, and let the update count 1.

        Raises:
            BadModel: it holds what would not be protected.
        """
        if self._model is None:
            raise RuntimeError("an update without a model that it was made from")
        if self._noisy and (unprotected := sorted(_unprotected(update))):
            raise BadModel(f"privacy=dp does not go with a part whose updates hold more than it can protect: {unprotected}")
        model, self._model = self._model, None
        received = model.groups[WEIGHTS]
        clip, std, count_std = (float(model.scalars[name]) for name in (CLIP, NOISE, COUNT_NOISE))
        norm = update_norm(update.weights, received, update.groups)
        noise = SeededNoise(local.seed, "dp", local.worker, update.round) if self._reproducible else SystemNoise()
        # What is not finite stays so, and the aggregator refuses it.
        scale = clip / norm if clip < norm < float("inf") else 1.0
        if scale < 1 or std > 0:
            _change(update, received, scale, std, noise)
        within = float(norm <= clip) if self._adaptive else 0.0
        update.scalars[WITHIN] = within + (float(noise.draw(1)) * count_std if count_std > 0 else 0.0)
        update.weight = 1.0


def _unprotected(update: Update) -> Iterator[str]:
    """The numbers of an update, and what is no floating-point tensor in its further groups."""
    yield from update.scalars
    for group, values in update.groups.items():
        yield from (f"{group}.{name}" for name, value in values.items() if not averaged(value.dtype))


def _change(update: Update, received: Mapping[str, Tensor], scale: float, std: float, noise: Noise) -> None:
    for name, value in update.weights.items():
        if averaged(value.dtype):
            step = difference(value, received[name]).mul_(scale)
            update.weights[name] = moved(received[name], step.add_(noise.like(step, std)) if std > 0 else step)
    for values in update.groups.values():
        for name, value in values.items():
            if averaged(value.dtype):
                values[name] = scaled(value, scale, noise.like(real(value), std) if std > 0 else None)
