"""Workers of one process read the same file once."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from flame_run.data.arrays import load_arrays
from flame_run.data.errors import DataError
from flame_run.data.shelf import SHELF, Arrays, Shelf


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "points.pt"
    torch.save({"x": torch.rand(20, 3), "y": torch.arange(20) % 2}, path)
    return path


def in_thread(body: Callable[[], Arrays]) -> Arrays:
    found: list[Arrays] = []
    thread = threading.Thread(target=lambda: found.append(body()))
    thread.start()
    thread.join(60)
    return found[0]


def loaded(shelf: Shelf, path: Path) -> Arrays:
    with shelf.used():
        return load_arrays(path, "train")


def test_threads_that_use_a_shelf_have_the_same_arrays(file: Path) -> None:
    shelf = Shelf()
    first, second = (in_thread(lambda: loaded(shelf, file)) for _ in range(2))
    assert first[0] is second[0]
    assert first[1] is second[1]
    assert torch.equal(first[0], load_arrays(file, "train")[0])


def test_a_file_is_one_whatever_it_is_called(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf()
    monkeypatch.chdir(file.parent)
    assert loaded(shelf, Path(file.name))[0] is loaded(shelf, file)[0]


def test_the_parts_of_a_data_set_are_kept_apart(file: Path) -> None:
    with Shelf().used():
        train, test = load_arrays(file, "train"), load_arrays(file, "test")
    assert len(train[0]) + len(test[0]) == 20


def test_a_thread_without_a_shelf_has_arrays_of_its_own(file: Path) -> None:
    shelf = Shelf()
    with shelf.used():
        mine = load_arrays(file, "train")
        theirs = in_thread(lambda: load_arrays(file, "train"))
    assert mine[0] is not theirs[0]
    assert SHELF.get() is None
    assert load_arrays(file, "train")[0] is not mine[0]


def test_what_cannot_be_read_is_tried_again(tmp_path: Path, file: Path) -> None:
    shelf, late = Shelf(), tmp_path / "late.pt"
    for _ in range(2):
        with pytest.raises(DataError):
            loaded(shelf, late)
    file.rename(late)
    assert len(loaded(shelf, late)[0]) == 18


def test_a_file_is_read_once_however_many_ask_at_the_same_time() -> None:
    shelf, reads, everybody = Shelf(), [], threading.Barrier(8)
    arrays = torch.zeros(2), torch.zeros(2)

    def read() -> Arrays:
        reads.append(1)
        return arrays

    def ask() -> None:
        everybody.wait(60)
        assert shelf.get("key", read) is arrays

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert reads == [1]
