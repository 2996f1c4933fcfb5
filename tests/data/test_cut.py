"""The cut of a data module that knows nothing of it."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

from flame_run import torchvision_guard
from flame_run.data.cut import cut_data_module, samples
from flame_run.data.errors import DataError
from flame_run.data.partition import partition

torchvision_guard.install()

from lightning.pytorch import LightningDataModule, LightningModule, Trainer  # noqa: E402

COUNT = 40
X = torch.arange(COUNT, dtype=torch.float32).unsqueeze(1)
Y = torch.arange(COUNT) % 4
ENTRY = {"strategy": "iid", "index": 1, "of": 4}


class Module(LightningDataModule):
    """A user's module: its loader is whatever the test wants."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def train_dataloader(self) -> Any:
        return self.make()

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(X, Y))


class Items(Dataset[Any]):
    """A dataset without any attribute that holds labels."""

    def __init__(self, make: Any) -> None:
        self.make = make

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> Any:
        return self.make(index)


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(COUNT))


class Named(TensorDataset):
    """A dataset whose labels are an attribute, and wrong elsewhere."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(X, torch.zeros(COUNT, dtype=torch.int64))
        vars(self).update(attributes)


class OwnLoader(DataLoader[Any]):
    def __init__(self, data: Dataset[Any], extra: int) -> None:
        super().__init__(data)
        self.extra = extra


class RenamedLoader(DataLoader[Any]):
    """A subclass without a constructor of its own."""


def source() -> TensorDataset:
    return TensorDataset(X, Y)


def cut(make: Any, entry: dict[str, Any] | None = None, seed: int = 3) -> DataLoader[Any]:
    loader: DataLoader[Any] = cut_data_module(Module(make), entry or ENTRY, seed).train_dataloader()
    return loader


def indices_of(loader: DataLoader[Any]) -> list[int]:
    assert isinstance(loader.dataset, Subset)
    return list(loader.dataset.indices)


def expected(strategy: str, labels: Tensor = Y, **options: Any) -> list[int]:
    result: list[int] = partition(labels.numpy(), strategy=strategy, of=4, seed=3, **options)[1].tolist()
    return result


def test_the_training_loader_has_one_part_and_the_test_loader_has_all() -> None:
    module = Module(lambda: DataLoader(source(), 3))
    assert cut_data_module(module, ENTRY, 3) is module
    seen = torch.cat([x for x, _ in module.train_dataloader()]).flatten().int().tolist()
    assert seen == expected("iid")
    assert len(module.test_dataloader().dataset) == COUNT  # type: ignore[arg-type]


def test_all_parts_together_are_the_source() -> None:
    parts = [indices_of(cut(lambda: DataLoader(source()), {**ENTRY, "index": index})) for index in range(4)]
    assert sorted(sum(parts, [])) == list(range(COUNT))  # noqa: RUF017


def test_the_class_of_the_module_is_left_alone() -> None:
    cut(lambda: DataLoader(source()))
    assert Module(lambda: DataLoader(source())).train_dataloader().dataset.tensors[0] is X


def first(batch: list[Any]) -> Any:
    return batch[0]


def seed_worker(index: int) -> None:
    """Do nothing, recognisably."""


def test_every_option_of_the_loader_is_kept() -> None:
    generator = torch.Generator()
    options: dict[str, Any] = {
        "batch_size": 3,
        "drop_last": True,
        "collate_fn": first,
        "generator": generator,
        "num_workers": 2,
        "timeout": 7,
        "worker_init_fn": seed_worker,
        "prefetch_factor": 4,
        "persistent_workers": True,
        "multiprocessing_context": "spawn",
        "in_order": False,
    }
    found = cut(lambda: DataLoader(source(), shuffle=True, **options))
    assert {name: getattr(found, name) for name in options if name != "multiprocessing_context"} == {
        name: value for name, value in options.items() if name != "multiprocessing_context"
    }
    assert found.multiprocessing_context.get_start_method() == "spawn"
    assert type(found.sampler) is RandomSampler
    assert found.sampler.generator is generator
    assert len(found) == 3


def test_the_loader_of_the_cut_draws_as_a_loader_over_the_subset_does() -> None:
    loader = cut(lambda: DataLoader(source(), 3, shuffle=True))
    torch.manual_seed(5)
    seen = [x.flatten().tolist() for x, _ in loader]
    torch.manual_seed(5)
    plain = DataLoader(Subset(source(), expected("iid")), 3, shuffle=True)
    assert seen == [x.flatten().tolist() for x, _ in plain]


def test_a_random_sampler_with_a_generator_of_its_own_keeps_it() -> None:
    generator = torch.Generator()
    loader = cut(lambda: DataLoader(source(), sampler=RandomSampler(source(), generator=generator)))
    assert loader.sampler.generator is generator  # type: ignore[attr-defined]
    assert loader.generator is None


def test_a_loader_without_batches_and_a_plain_subclass_are_cut_too() -> None:
    assert [x.shape for x, _ in cut(lambda: DataLoader(source(), batch_size=None))] == [(1,)] * 10
    assert type(cut(lambda: RenamedLoader(source()))) is RenamedLoader


@pytest.mark.parametrize("strategy", ["shards", "dirichlet"])
@pytest.mark.parametrize(
    "dataset",
    [
        source(),
        Named(targets=Y),
        Named(targets=Y.tolist()),
        Named(labels=Y.numpy()),
        Named(targets=[1, 2], labels=Y),
        Items(lambda index: (X[index], int(Y[index]))),
        Items(lambda index: [X[index], Y[index]]),
        Items(lambda index: (X[index], np.asarray(Y)[index], "more")),
        Items(lambda index: {"image": X[index], "label": Y[index]}),
        ConcatDataset([Subset(source(), range(15)), Subset(Named(targets=Y), range(15, COUNT))]),
        Subset(ConcatDataset([source(), source()]), range(COUNT)),
    ],
)
def test_labels_are_found_wherever_they_are(strategy: str, dataset: Dataset[Any]) -> None:
    loader = cut(lambda: DataLoader(dataset, collate_fn=first), {"strategy": strategy, "index": 1, "of": 4})
    assert indices_of(loader) == expected(strategy)


def test_strategies_that_need_no_labels_do_not_look_for_them() -> None:
    blind = Items(lambda index: pytest.fail(f"sample {index} was read"))
    for strategy in ("iid", "quantity"):
        assert indices_of(cut(lambda: DataLoader(blind), {"strategy": strategy, "index": 1, "of": 4})) == expected(strategy)


def test_labels_are_read_once_however_often_the_loader_is_made() -> None:
    read: list[int] = []
    dataset = Items(lambda index: (read.append(index) or X[index], int(Y[index])))  # type: ignore[func-returns-value]
    module = cut_data_module(Module(lambda: DataLoader(dataset)), {"strategy": "shards", "index": 0, "of": 4}, 3)
    for _ in range(3):
        module.train_dataloader()
    assert read == list(range(COUNT))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: DataLoader(Stream()), "iterable dataset"),
        (lambda: DataLoader(source(), sampler=WeightedRandomSampler([1.0] * COUNT, COUNT)), "sampler WeightedRandomSampler"),
        (lambda: DataLoader(source(), sampler=RandomSampler(source(), replacement=True)), "sampler RandomSampler"),
        (lambda: DataLoader(source(), sampler=RandomSampler(source(), num_samples=7)), "sampler RandomSampler"),
        (lambda: DataLoader(source(), sampler=range(5)), "sampler range"),
        (
            lambda: DataLoader(source(), batch_sampler=BatchSampler(SequentialSampler(source()), 3, drop_last=False)),
            "batch sampler BatchSampler",
        ),
        (lambda: OwnLoader(source(), 1), "OwnLoader has a constructor of its own"),
        (lambda: [DataLoader(source()), DataLoader(source())], r"train_dataloader\(\) = 'list'"),
    ],
)
def test_a_loader_that_cannot_be_cut_is_refused(make: Any, text: str) -> None:
    with pytest.raises(DataError, match=text):
        cut(make)


@pytest.mark.parametrize("item", [3, (1,), {"image": 1}, (1, "cat"), (1, torch.ones(2)), (1, 0.5)])
def test_samples_without_an_integer_label_are_refused(item: Any) -> None:
    with pytest.raises(DataError, match="no integer label in a sample"):
        cut(lambda: DataLoader(Items(lambda _: item), collate_fn=first), {"strategy": "shards", "index": 0, "of": 2})


def test_labels_with_fractions_are_refused() -> None:
    with pytest.raises(DataError, match="one integer label per sample"):
        cut(lambda: DataLoader(TensorDataset(X, X.flatten())), {"strategy": "dirichlet", "index": 0, "of": 2})


def test_an_empty_part_is_refused() -> None:
    tiny = TensorDataset(X[:2], Y[:2])
    entries = [{"strategy": "iid", "index": index, "of": 3, "minSize": 0} for index in range(3)]
    with pytest.raises(DataError, match="this part has no sample"):
        [cut(lambda: DataLoader(tiny), entry) for entry in entries]


def test_samples_counts_what_a_worker_owns() -> None:
    assert samples(cut(lambda: DataLoader(source(), 3, drop_last=True))) == 10
    for loader in (DataLoader(Stream()), [1, 2]):
        with pytest.raises(DataError, match="cannot be counted"):
            samples(loader)


class Watcher(LightningModule):
    """A model that remembers what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.seen: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen += batch[0].flatten().tolist()
        loss: Tensor = self.layer(batch[0]).sum() * 0
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec.* is deprecated:FutureWarning")
@pytest.mark.parametrize("options", [{}, {"overfit_batches": 2}])
def test_lightning_trains_on_the_part_only(options: dict[str, Any]) -> None:
    model = Watcher()
    module = cut_data_module(Module(lambda: DataLoader(source(), 3, shuffle=not options)), ENTRY, 3)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    Trainer(accelerator="cpu", max_epochs=2, **quiet, **options).fit(model, datamodule=module)  # type: ignore[arg-type]
    part = expected("iid")
    assert set(model.seen) == set(part if not options else part[:6])
    assert len(model.seen) == 2 * (6 if options else 10)
