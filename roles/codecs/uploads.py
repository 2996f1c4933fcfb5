"""What a worker hands up, encoded where its channel has a codec, and what the codec remembers of it."""

from collections.abc import Mapping

from roles.codecs.messages import codec_for, pack
from roles.context import Context
from roles.errors import BadModel
from roles.keep import WorkerState
from roles.kinds import UPDATE
from roles.rounds.average import WEIGHTS, WeightedSum
from roles.tags import UPLOAD
from transports.base import Channel
from transports.message import Message, TensorSpec


class Uploads:
    """Encodes the updates of one worker; the memory of its codec is part of the worker's state.

    Args:
        context: of the worker.
        keep: where the memory is kept from round to round.
    """

    def __init__(self, context: Context, keep: WorkerState) -> None:
        self._keep = keep
        self._sum: tuple[WeightedSum, Message] | None = None
        self.codec = codec_for(context, UPLOAD)
        """None: updates travel as they are."""
        if self.codec is not None and self.codec.stateful:
            keep.register("codec", self.codec)

    def of_update(self, update: Message, model: Message, channel: Channel) -> Message:
        """`update` as it goes to `channel`; `model` is what it was made from. Call it once for each update.

        Raises:
            BadModel: it has a codec, and not the entries of the model.
        """
        if self.codec is not None:
            _check_same(update.specs[WEIGHTS], model.specs[WEIGHTS])
        return pack(self.codec, update, channel.allocate, specs=model.specs[WEIGHTS], reference=model.groups[WEIGHTS])

    def of_sum(self, total: WeightedSum, model: Message, channel: Channel) -> Message:
        """`total` as it goes to `channel`: as it is, or with a codec its mean, encoded once. That uses it up."""
        if self.codec is None:
            return total.message(model.round)
        if self._sum is None or self._sum[0] is not total:
            scalars = {"weight": total.total, "samples": total.samples, "merged": False}
            mean = Message(kind=UPDATE, round=model.round, scalars=scalars, groups={WEIGHTS: total.mean()})
            self._sum = (total, self.of_update(mean, model, channel))
        return self._sum[1]

    def refused(self, update: Message) -> None:
        """`update` did not count: what it held is remembered as not sent."""
        if self.codec is not None and self.codec.stateful:
            self.codec.take_back(update.groups)
            self._keep.save(update.round)


def _check_same(update: Mapping[str, TensorSpec], model: Mapping[str, TensorSpec]) -> None:
    """Refuse to encode an update that no aggregator would take.

    Raises:
        BadModel: names the entries that differ.
    """
    names = update.keys() | model.keys()
    differ = sorted(name for name in names if name not in update or name not in model or update[name].shape != model[name].shape)
    if differ:
        raise BadModel(f"the update has other entries than the model, or of other shapes: {differ[:5]}")
