"""Cutting the training data of a data module that knows nothing of it."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
)

from flame_run import torchvision_guard
from flame_run.data.errors import DataError
from flame_run.data.partition import LABEL_STRATEGIES, part_of

torchvision_guard.install()

from lightning.pytorch import LightningDataModule  # noqa: E402 - Lightning does not import before the guard

_PLACE = "model.data.train_dataloader()"
_LABEL_KEYS = ("label", "labels", "target", "targets", "y")


def cut_data_module(module: LightningDataModule, partition: Mapping[str, Any], seed: int) -> LightningDataModule:
    """Make `train_dataloader()` of a data module return one part of its training data.

    The module's class is not touched and its other methods stay as they are. The loader keeps batch size, shuffling,
    generator, collation, worker processes and all other options of the original; only its dataset becomes a `Subset`.
    The order of batches is drawn from the same generator as without the cut.

    Args:
        module: Any data module whose `train_dataloader()` returns one `DataLoader` over a map-style dataset.
        partition: `{strategy, index, of}` and optionally `alpha`, `shardsPerClient`, `minSize`, `seed`.
        seed: Seed of the cut where `partition` has none; the same for all parts of one source.

    Returns:
        The same module.

    Raises:
        DataError: From `train_dataloader()`: the loader cannot be cut (several loaders, an iterable dataset, a sampler,
            batch sampler or subclass of one's own), the labels cannot be found, or the part does not exist or is empty.

    """
    original = module.train_dataloader
    known: list[tuple[Dataset[Any], list[int]]] = []
    made: list[tuple[DataLoader[Any], DataLoader[Any]]] = []

    def train_dataloader() -> DataLoader[Any]:
        loader = _checked_loader(original())
        if made and made[0][0] is loader:
            return made[0][1]
        if not known or known[0][0] is not loader.dataset:
            known[:] = [(loader.dataset, _indices(loader.dataset, partition, seed))]
        made[:] = [(loader, _over_subset(loader, Subset(loader.dataset, known[0][1])))]
        return made[0][1]

    module.train_dataloader = train_dataloader  # type: ignore[method-assign]
    return module


def samples(loader: Any) -> int:
    """Return the number of samples of a loader's dataset: n_k, the weight of a worker in FedAvg.

    It counts what the worker owns, as McMahan et al. (2017) do: `drop_last` does not lower it, and neither does a limit on
    the batches of an epoch.

    Raises:
        DataError: The loader has no dataset of a known length.

    """
    dataset = getattr(loader, "dataset", None)
    if dataset is None or isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise DataError(
            _PLACE, type(loader).__name__, "its samples cannot be counted", "legal: a DataLoader over a map-style dataset"
        )
    return len(dataset)


def _indices(dataset: Dataset[Any], partition: Mapping[str, Any], seed: int) -> list[int]:
    by_label = partition.get("strategy") in LABEL_STRATEGIES
    labels = _labels(dataset) if by_label else np.zeros(_length(dataset), np.int64)
    indices = part_of(labels, partition, seed)
    if len(indices) == 0:
        raise DataError("partition", dict(partition), "this part has no sample", "legal: minSize of 1 or more")
    return cast("list[int]", indices.tolist())


def _checked_loader(loader: Any) -> DataLoader[Any]:
    """Refuse every loader of which a cut would change more than the dataset."""
    reason, legal = "", "legal: one torch.utils.data.DataLoader over a map-style dataset, or a dataset without partition"
    if not isinstance(loader, DataLoader):
        reason = "a partition cannot cut this"
    elif isinstance(loader.dataset, IterableDataset):
        reason = "a partition cannot cut an iterable dataset: its samples have no numbers"
    elif loader.batch_size is None and loader.batch_sampler is not None:
        reason = f"its batch sampler {type(loader.batch_sampler).__name__} knows the whole dataset only"
    elif type(loader.batch_sampler) not in (BatchSampler, type(None)):
        reason = f"its batch sampler is a {type(loader.batch_sampler).__name__}"
    elif not _plain_sampler(loader):
        reason = f"its sampler {type(loader.sampler).__name__} knows the whole dataset only"
        legal = "legal: shuffle=True or False, or a dataset without partition"
    elif any("__init__" in vars(kind) for kind in type(loader).__mro__[: type(loader).__mro__.index(DataLoader)]):
        reason = f"{type(loader).__name__} has a constructor of its own, so it cannot be made again over a part"
    if reason:
        raise DataError(_PLACE, type(loader).__name__, reason, legal)
    return cast("DataLoader[Any]", loader)


def _plain_sampler(loader: DataLoader[Any]) -> bool:
    sampler = loader.sampler
    if type(sampler) is RandomSampler:
        return not sampler.replacement and sampler.num_samples == _length(loader.dataset)
    return type(sampler) is SequentialSampler


def _over_subset(loader: DataLoader[Any], subset: Subset[Any]) -> DataLoader[Any]:
    """Make the loader again, with all its options, over a part of its dataset."""
    sampler = loader.sampler
    options: dict[str, Any] = {}
    if isinstance(sampler, RandomSampler):
        options["sampler"] = RandomSampler(subset, generator=sampler.generator)
    if loader.num_workers > 0:
        options["multiprocessing_context"] = loader.multiprocessing_context
    # Younger than the oldest torch that is supported, or deprecated where they are not set.
    for name, default in (("in_order", True), ("pin_memory_device", "")):
        if getattr(loader, name, default) != default:
            options[name] = getattr(loader, name)
    return type(loader)(
        subset,
        batch_size=loader.batch_size,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        drop_last=loader.drop_last,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
        **options,
    )


def _length(dataset: Dataset[Any]) -> int:
    if not hasattr(dataset, "__len__"):
        raise DataError(_PLACE, type(dataset).__name__, "its samples cannot be counted", "legal: a dataset with __len__")
    return len(dataset)


def _labels(dataset: Dataset[Any]) -> NDArray[Any]:
    """Find the label of each sample: by attribute, through subsets and concatenations, else by reading each sample once."""
    if isinstance(dataset, Subset):
        return _labels(dataset.dataset)[np.asarray(dataset.indices, np.int64)]
    if isinstance(dataset, ConcatDataset):
        return np.concatenate([_labels(part) for part in dataset.datasets])
    tensors = getattr(dataset, "tensors", None)
    candidates = [getattr(dataset, "targets", None), getattr(dataset, "labels", None), tensors[-1] if tensors else None]
    for candidate in candidates:
        if isinstance(candidate, torch.Tensor | np.ndarray | Sequence) and len(candidate) == _length(dataset):
            return np.asarray(candidate)
    return np.asarray([_label_of(dataset[index]) for index in range(_length(dataset))])


def _label_of(item: Any) -> int:
    if isinstance(item, Mapping):
        label = next((item[key] for key in _LABEL_KEYS if key in item), None)
    else:
        label = item[1] if isinstance(item, Sequence) and len(item) > 1 else None
    value = np.asarray(label)
    if value.size == 1 and value.dtype.kind in "iub":
        return int(value.item())
    legal = "legal: a dataset with targets or labels, or samples (x, label); strategies iid and quantity need no labels"
    raise DataError(_PLACE, type(item).__name__, "no integer label in a sample", legal)
