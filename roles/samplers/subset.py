"""The same `DataLoader` over a part of its dataset."""

from collections.abc import Iterator, Sequence, Sized
from typing import Any, cast

from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, Sampler, SequentialSampler, Subset


class Recorded(Sampler[int]):
    """Gives what another sampler gives and remembers it, from the start of the newest epoch."""

    def __init__(self, inner: Sampler[int]) -> None:
        self._inner = inner
        self.drawn: list[int] = []

    def __iter__(self) -> Iterator[int]:
        self.drawn.clear()
        for position in self._inner:
            self.drawn.append(position)
            yield position

    def __len__(self) -> int:
        return len(cast("Sized", self._inner))


def why_whole(loader: Any) -> str | None:
    """Why `loader` cannot be made again over a part of its dataset with nothing else changed; None where it can.

    It can where it is a `DataLoader`, or a subclass without a constructor of its own, over a map-style dataset, with batches of
    torch's own batch sampler, or none, and samples in order or shuffled without replacement.
    """
    if not isinstance(loader, DataLoader):
        return f"it is a {type(loader).__name__}, not one DataLoader"
    if isinstance(loader.dataset, IterableDataset) or not hasattr(loader.dataset, "__len__"):
        return "its dataset has no numbered samples"
    own_batches = type(loader.batch_sampler) not in (BatchSampler, type(None))
    if own_batches or (loader.batch_size is None and loader.batch_sampler is not None):
        return f"its batch sampler {type(loader.batch_sampler).__name__} knows the whole dataset only"
    sampler = loader.sampler
    shuffled = type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == len(loader.dataset)
    if not shuffled and type(sampler) is not SequentialSampler:
        return f"its sampler {type(sampler).__name__} knows the whole dataset only"
    kinds = type(loader).__mro__
    if any("__init__" in vars(kind) for kind in kinds[: kinds.index(DataLoader)]):
        return f"{type(loader).__name__} has a constructor of its own"
    return None


def over(loader: DataLoader[Any], indices: Sequence[int]) -> tuple[DataLoader[Any], Recorded]:
    """Make a loader again over some samples, with all its options, and with a record of their order.

    A shuffled one draws from the same generator as before: over all samples in order, it gives the same batches.

    Args:
        loader: one of which `why_whole` says nothing.
        indices: of its dataset.

    Returns:
        The loader, and the record of the positions in `indices` in the order in which samples are loaded.
    """
    subset: Subset[Any] = Subset(loader.dataset, indices)
    sampler = loader.sampler
    if isinstance(sampler, RandomSampler):
        record = Recorded(RandomSampler(subset, generator=sampler.generator))
    else:
        record = Recorded(SequentialSampler(subset))
    return _again(loader, subset, record, drop_last=loader.drop_last), record


def in_order(loader: DataLoader[Any]) -> DataLoader[Any]:
    """Make a loader again that gives every sample once, in the order of the dataset."""
    return _again(loader, loader.dataset, SequentialSampler(cast("Sized", loader.dataset)), drop_last=False)


def _again(loader: DataLoader[Any], dataset: Any, sampler: Sampler[int], *, drop_last: bool) -> DataLoader[Any]:
    # Younger than the oldest torch that is supported, or deprecated where they are not set.
    defaults = {"in_order": True, "pin_memory_device": ""}
    options = {name: getattr(loader, name) for name, usual in defaults.items() if getattr(loader, name, usual) != usual}
    if loader.num_workers > 0:
        options["multiprocessing_context"] = loader.multiprocessing_context
    return type(loader)(
        dataset,
        sampler=sampler,
        batch_size=loader.batch_size,
        drop_last=drop_last and loader.batch_size is not None,
        num_workers=loader.num_workers,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
        worker_init_fn=loader.worker_init_fn,
        collate_fn=loader.collate_fn,
        generator=loader.generator,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        **options,
    )
