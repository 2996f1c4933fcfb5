"""The data module over arrays in memory."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset, TensorDataset

from flame_run.data import ArrayDataModule, cut_data_module, locate
from flame_run.data.errors import DataError
from flame_run.data.module import ArrayDataset, collate

MNIST = locate("builtin://mnist-mini")


def saved(folder: Path, x: Any, y: Any) -> Path:
    path = folder / "d.npz"
    np.savez(path, x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])
    return path


def test_mnist_comes_as_floats_with_a_channel() -> None:
    module = ArrayDataModule(MNIST, batch_size=32)
    x, y = next(iter(module.train_dataloader()))
    assert x.shape == (32, 1, 28, 28)
    assert x.dtype == torch.float32
    assert x.min() == 0
    assert x.max() == 1
    assert y.dtype == torch.int64
    assert [len(y) for _, y in module.test_dataloader()] == [500] * 4


def test_batches_are_those_of_a_plain_loader_over_plain_tensors_with_the_same_seed() -> None:
    module = ArrayDataModule(MNIST, batch_size=100, mean=0.1307, std=0.3081)
    raw = module.dataset("train")
    plain = TensorDataset((raw.x.float() / 255 - 0.1307) / 0.3081, raw.targets)
    torch.manual_seed(1)
    ours = list(module.train_dataloader())
    torch.manual_seed(1)
    theirs = list(DataLoader(plain, 100, shuffle=True))
    assert len(ours) == len(theirs) == 100
    for (x, y), (plain_x, plain_y) in zip(ours, theirs, strict=True):
        assert torch.equal(x, plain_x)
        assert torch.equal(y, plain_y)


def test_without_shuffling_the_order_is_that_of_the_file() -> None:
    module = ArrayDataModule(MNIST, shuffle=False)
    assert next(iter(module.train_dataloader()))[1][:5].tolist() == [5, 0, 4, 1, 9]


def test_a_cut_keeps_fetching_whole_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    module = cut_data_module(ArrayDataModule(MNIST), {"strategy": "dirichlet", "alpha": 0.5, "index": 0, "of": 4}, 0)
    monkeypatch.setattr(ArrayDataset, "__getitem__", lambda *_: pytest.fail("a sample was fetched by itself"))
    loader = module.train_dataloader()
    assert isinstance(loader.dataset, Subset)
    assert sum(len(y) for _, y in loader) == len(loader.dataset)


def test_samples_fetched_alone_equal_those_of_a_batch() -> None:
    dataset = ArrayDataModule(MNIST, mean=0.5, std=2.0).dataset("test")
    x, y = dataset.__getitems__([4, 1])
    alone_x, alone_y = collate([dataset[4], dataset[1]])
    assert torch.equal(x, alone_x)
    assert torch.equal(y, alone_y)


def test_preparing_a_batch_does_not_change_the_arrays(tmp_path: Path) -> None:
    values = np.ones((4, 3), np.float32)
    dataset = ArrayDataModule(saved(tmp_path, values, np.arange(4)), mean=1.0, std=2.0).dataset("train")
    for _ in range(2):
        assert torch.equal(dataset[0][0], torch.zeros(3))


@pytest.mark.parametrize(
    ("stored", "shape", "dtype"),
    [
        (np.zeros((4, 5, 6), np.uint8), (1, 5, 6), torch.float32),
        (np.zeros((4, 5, 6, 3), np.uint8), (3, 5, 6), torch.float32),
        (np.zeros((4, 3, 5, 6), np.uint8), (3, 5, 6), torch.float32),
        (np.zeros((4, 7), np.float64), (7,), torch.float32),
        (np.zeros((4, 7), np.float16), (7,), torch.float32),
        (np.zeros((4, 7), np.int64), (7,), torch.int64),
        (np.zeros((4, 2, 5, 6), np.float32), (2, 5, 6), torch.float32),
    ],
)
def test_each_kind_of_array_gets_the_form_that_models_expect(
    stored: Any, shape: tuple[int, ...], dtype: torch.dtype, tmp_path: Path
) -> None:
    x, _ = ArrayDataModule(saved(tmp_path, stored, np.arange(4))).dataset("train")[0]
    assert tuple(x.shape) == shape
    assert x.dtype == dtype


def test_each_channel_can_be_normalised_by_itself(tmp_path: Path) -> None:
    pixels = np.full((4, 5, 6, 3), 255, np.uint8)
    module = ArrayDataModule(saved(tmp_path, pixels, np.arange(4)), mean=[0.0, 0.5, 1.0], std=[1.0, 0.5, 2.0])
    expected: Tensor = torch.tensor([1.0, 1.0, 0.0]).reshape(3, 1, 1).expand(3, 5, 6)
    assert torch.equal(module.dataset("train")[0][0], expected)
    assert torch.equal(next(iter(module.test_dataloader()))[0][1], expected)


def test_setup_reads_what_the_stage_needs_once(tmp_path: Path) -> None:
    path = saved(tmp_path, np.zeros((4, 3)), np.arange(4))
    module = ArrayDataModule(path)
    module.setup("fit")
    module.setup("test")
    path.unlink()
    assert module.dataset("train") is module.train_dataloader().dataset
    assert len(module.dataset("test")) == 2


def test_a_loader_is_made_once_and_shuffles_anew_from_the_global_generator() -> None:
    module = ArrayDataModule(MNIST, batch_size=1000)
    assert module.train_dataloader() is module.train_dataloader()
    assert module.test_dataloader() is module.predict_dataloader()
    torch.manual_seed(1)
    first, second = ([y.tolist() for _, y in module.train_dataloader()] for _ in range(2))
    torch.manual_seed(1)
    again = [y.tolist() for _, y in ArrayDataModule(MNIST, batch_size=1000).train_dataloader()]
    assert first == again != second


@pytest.mark.parametrize(("name", "value"), [("batch_size", 7), ("shuffle", False), ("num_workers", 1), ("_datasets", {})])
def test_a_loader_follows_what_is_asked_of_the_module_later(name: str, value: Any) -> None:
    module = ArrayDataModule(MNIST, batch_size=20)
    before = module.train_dataloader()
    setattr(module, name, value)
    after = module.train_dataloader()
    assert after is not before
    assert after.dataset is module.dataset("train")
    fresh = ArrayDataModule(MNIST, batch_size=20)
    setattr(fresh, name, value)
    expected = fresh.train_dataloader()
    assert (after.batch_size, type(after.sampler), after.num_workers) == (
        expected.batch_size,
        type(expected.sampler),
        expected.num_workers,
    )


@pytest.mark.parametrize("values", [np.linspace(-3, 3, 12), np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-42])])
def test_no_normalisation_leaves_every_bit(values: Any, tmp_path: Path) -> None:
    x = values.astype(np.float32).reshape(-1, 3)
    dataset = ArrayDataModule(saved(tmp_path, x, np.arange(len(x)))).dataset("train")
    found, _ = dataset.__getitems__(list(range(len(x))))
    assert torch.equal(found.view(torch.int32), torch.from_numpy(x).view(torch.int32))
    assert found.data_ptr() != dataset.x.data_ptr()


def test_missing_data_is_an_error_of_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it does not exist"):
        ArrayDataModule(tmp_path / "none.npz").setup("fit")
