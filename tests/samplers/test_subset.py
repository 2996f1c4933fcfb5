"""Loaders over a part of their dataset."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler, TensorDataset

from roles.samplers.subset import in_order, over, why_whole

NUMBERS = TensorDataset(torch.arange(23))


def batches(loader: DataLoader[Any]) -> list[list[int]]:
    torch.manual_seed(3)
    return [batch[0].tolist() for batch in loader]


@pytest.mark.parametrize("options", [{}, {"drop_last": True}, {"shuffle": True}, {"shuffle": True, "drop_last": True}])
def test_over_all_samples_the_batches_are_the_same(options: dict[str, Any]) -> None:
    loader: DataLoader[Any] = DataLoader(NUMBERS, batch_size=5, **options)
    again, _ = over(loader, range(23))
    assert batches(again) == batches(loader)


def test_a_generator_of_its_own_goes_on() -> None:
    make: Callable[[], DataLoader[Any]] = lambda: DataLoader(  # noqa: E731
        NUMBERS, batch_size=5, shuffle=True, generator=torch.Generator().manual_seed(9)
    )
    again, _ = over(make(), range(23))
    plain = make()
    assert [batches(again), batches(again)] == [batches(plain), batches(plain)]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("shuffle", [False, True])
def test_only_the_chosen_samples_come_and_the_record_says_in_which_order(shuffle: bool, workers: int) -> None:
    indices = [2, 3, 5, 7, 11, 13, 17, 19]
    loader, record = over(DataLoader(NUMBERS, batch_size=3, shuffle=shuffle, num_workers=workers), indices)
    for _ in range(2):
        flat = [number for batch in batches(loader) for number in batch]
        assert sorted(flat) == indices
        assert [indices[position] for position in record.drawn] == flat
    assert len(loader) == 3


def test_in_order_gives_every_sample_once() -> None:
    loader: DataLoader[Any] = DataLoader(NUMBERS, batch_size=5, shuffle=True, drop_last=True)
    assert [number for batch in batches(in_order(loader)) for number in batch] == list(range(23))


def test_a_loader_without_batches_stays_one() -> None:
    loader, record = over(DataLoader(NUMBERS, batch_size=None), [4, 2])
    assert [int(item[0]) for item in loader] == [4, 2]
    assert record.drawn == [0, 1]


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        return iter(())


class OwnLoader(DataLoader[Any]):
    def __init__(self) -> None:
        super().__init__(NUMBERS)


class OwnSampler(SequentialSampler):
    pass


class Unsized(Dataset[int]):
    def __getitem__(self, index: int) -> int:
        return index


@pytest.mark.parametrize(
    ("loader", "reason"),
    [
        (lambda: [1], "it is a list, not one DataLoader"),
        (lambda: DataLoader(Stream()), "its dataset has no numbered samples"),
        (lambda: DataLoader(Unsized(), sampler=[1, 2]), "its dataset has no numbered samples"),
        (lambda: DataLoader(NUMBERS, sampler=OwnSampler(NUMBERS)), "its sampler OwnSampler knows the whole dataset only"),
        (lambda: DataLoader(NUMBERS, sampler=RandomSampler(NUMBERS, replacement=True)), "its sampler RandomSampler knows"),
        (
            lambda: DataLoader(NUMBERS, batch_sampler=BatchSampler(SequentialSampler(NUMBERS), 2, drop_last=False)),
            "its batch sampler BatchSampler knows",
        ),
        (lambda: DataLoader(NUMBERS, batch_sampler=[[1, 2]]), "its batch sampler list knows the whole dataset only"),
        (OwnLoader, "OwnLoader has a constructor of its own"),
        (lambda: DataLoader(NUMBERS, shuffle=True), None),
    ],
)
def test_a_loader_that_cannot_be_cut_is_known_with_the_reason(loader: Callable[[], Any], reason: str | None) -> None:
    found = why_whole(loader())
    assert found is None if reason is None else found is not None and found.startswith(reason)
