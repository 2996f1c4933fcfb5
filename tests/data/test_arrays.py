"""Reading samples and labels from files."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flame_run.data.arrays import Split, load_arrays
from flame_run.data.errors import DataError
from flame_run.data.idx import read_idx
from flame_run.data.urls import locate

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx_bytes(values: NDArray[np.generic]) -> bytes:
    code = CODES[values.dtype.str[1:]]
    shape = struct.pack(f">{values.ndim}I", *values.shape)
    return bytes([0, 0, code, values.ndim]) + shape + values.astype(values.dtype.newbyteorder(">")).tobytes()


def write_idx_folder(folder: Path, train: int = 6, test: int = 3) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, count in (("train", train), ("t10k", test)):
        if count:
            images = np.arange(count * 4, dtype=np.uint8).reshape(count, 2, 2)
            (folder / f"{stem}-images-idx3-ubyte").write_bytes(idx_bytes(images))
            (folder / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(np.arange(count, dtype=np.uint8))))
    return folder


@pytest.mark.parametrize(("split", "count", "labels"), [("train", 10_000, [5, 0, 4, 1, 9]), ("test", 2_000, [7, 2, 1, 0, 4])])
def test_the_shipped_subset_is_mnist(split: Split, count: int, labels: list[int]) -> None:
    x, y = load_arrays(locate("builtin://mnist-mini"), split)
    assert x.shape == (count, 28, 28)
    assert x.dtype == torch.uint8
    assert y.dtype == torch.int64
    assert y[:5].tolist() == labels
    assert y.unique().tolist() == list(range(10))


@given(st.sampled_from(sorted(CODES)), st.lists(st.integers(0, 3), min_size=1, max_size=3), st.booleans())
def test_an_idx_file_gives_back_what_was_written(kind: str, shape: list[int], packed: bool) -> None:
    import tempfile

    values = np.arange(np.prod(shape), dtype=kind).reshape(shape)
    raw = idx_bytes(values)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x")
        path.write_bytes(gzip.compress(raw) if packed else raw)
        found = read_idx(path)
    assert found.dtype == values.dtype
    assert np.array_equal(found, values)


GOOD = idx_bytes(np.arange(8, dtype=np.uint8).reshape(2, 2, 2))
# Without the time in its header: it would stand in the names of the tests, and differ from one worker of pytest to the next.
PACKED = gzip.compress(GOOD, mtime=0)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", "not an IDX file: it begins with nothing"),
        (b"\x89PNG0000", "not an IDX file: it begins with 89 50 4e 47"),
        (b"\0\0\x07\x01" + GOOD[4:], "not an IDX file"),
        (GOOD[:9], "cut off within its header, at byte 9 of 16"),
        (GOOD[:-1], r"cut off: 23 bytes for shape \(2, 2, 2\), expected 24"),
        (GOOD + b"!", "longer than its header says: 25 bytes"),
        (PACKED[:-9], "cannot be read: Compressed file ended"),
        (PACKED[:12] + b"\xff\xff\xff" + PACKED[15:], "cannot be read"),
    ],
)
def test_a_broken_idx_file_is_refused(raw: bytes, text: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(raw)
    with pytest.raises(DataError, match=text):
        read_idx(path)


@pytest.mark.parametrize("where", [".", "raw", "MNIST/raw"])
def test_idx_files_are_found_where_torchvision_puts_them(where: str, tmp_path: Path) -> None:
    write_idx_folder(tmp_path / where)
    x, y = load_arrays(tmp_path, "test")
    assert x.shape == (3, 2, 2)
    assert y.tolist() == [0, 1, 2]


def test_two_sets_of_idx_files_are_ambiguous(tmp_path: Path) -> None:
    for name in ("A", "B"):
        write_idx_folder(tmp_path / name / "raw")
    with pytest.raises(DataError, match="several sets of IDX files: A/raw, B/raw"):
        load_arrays(tmp_path, "train")


def test_a_missing_idx_file_is_named(tmp_path: Path) -> None:
    write_idx_folder(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="it lacks t10k-labels-idx1-ubyte"):
        load_arrays(tmp_path, "test")


def test_names_with_a_dot_are_read_too(tmp_path: Path) -> None:
    write_idx_folder(tmp_path)
    for path in list(tmp_path.iterdir()):
        path.rename(tmp_path / path.name.replace("-idx", ".idx"))
    assert len(load_arrays(tmp_path, "train")[0]) == 6


@pytest.mark.parametrize(("count", "held_out"), [(2, 1), (9, 1), (10, 1), (29, 2), (100, 10)])
def test_the_last_tenth_is_the_test_part_where_there_is_none(count: int, held_out: int, tmp_path: Path) -> None:
    write_idx_folder(tmp_path, train=count, test=0)
    train, test = (load_arrays(tmp_path, split)[1].tolist() for split in ("train", "test"))
    assert len(test) == held_out
    assert train + test == list(range(count))


def test_one_sample_cannot_be_shared(tmp_path: Path) -> None:
    write_idx_folder(tmp_path, train=1, test=0)
    with pytest.raises(DataError, match="too few samples"):
        load_arrays(tmp_path, "train")


X = np.arange(40, dtype=np.float64).reshape(20, 2)
Y = np.arange(20, dtype=np.int32)


def save(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def test_npz_with_both_parts(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x_train=X, y_train=Y, x_test=X[:3], y_test=Y[:3])
    x, y = load_arrays(tmp_path / "d.npz", "test")
    assert x.dtype == torch.float64
    assert y.dtype == torch.int64
    assert y.tolist() == [0, 1, 2]


@pytest.mark.parametrize("names", [("x", "y"), ("x_train", "y_train")])
def test_npz_with_one_part(names: tuple[str, str], tmp_path: Path) -> None:
    arrays: dict[str, Any] = {names[0]: X, names[1]: Y}
    np.savez(tmp_path / "d.npz", **arrays)
    assert load_arrays(tmp_path / "d.npz", "test")[1].tolist() == [18, 19]


@pytest.mark.parametrize(
    "content",
    [
        {"x": torch.tensor(X), "y": torch.tensor(Y)},
        (torch.tensor(X), torch.tensor(Y)),
        {
            "x_train": torch.tensor(X[:18]),
            "y_train": torch.tensor(Y[:18]),
            "x_test": torch.tensor(X[18:]),
            "y_test": torch.tensor(Y[18:]),
        },
    ],
)
def test_pt_holds_a_dict_or_a_tuple(content: object, tmp_path: Path) -> None:
    path = save(tmp_path / "d.pt", content)
    assert load_arrays(path, "test")[1].tolist() == [18, 19]
    assert load_arrays(path, "train")[0].shape == (18, 2)


def test_pt_that_holds_code_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "d.pt", {"x": Path("any object")})
    with pytest.raises(DataError, match="cannot be read as tensors only"):
        load_arrays(path, "train")


@pytest.mark.parametrize(
    ("content", "text"), [([torch.ones(1)], "holds a list"), (torch.ones(2, 2), "holds a Tensor"), ({"a": 1}, "it holds a")]
)
def test_pt_with_other_contents_is_refused(content: object, text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=text):
        load_arrays(save(tmp_path / "d.pt", content), "train")


def test_npz_of_objects_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.array([{}, {}]), y=Y[:2])
    with pytest.raises(DataError, match=r"not a \.npz archive of plain arrays"):
        load_arrays(tmp_path / "d.npz", "train")
    (tmp_path / "d.npz").write_bytes(b"hello")
    with pytest.raises(DataError, match="the file is no zip archive"):
        load_arrays(tmp_path / "d.npz", "train")


@pytest.mark.parametrize(
    ("text", "x", "y"),
    [
        ("1,2,0\n3,4,1\n", [1, 2], [0]),
        ("a,b,c\n1,2,0\n3,4,1\n", [1, 2], [0]),
        ("label,a,b\n7,1,2\n8,3,4\n", [1, 2], [7]),
        ('"a","y","b"\n1,5,2\n3,6,4\n', [1, 2], [5]),
    ],
)
def test_csv_with_and_without_a_header(text: str, x: list[float], y: list[int], tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text(text)
    (tmp_path / "d.csv.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("d.csv", "d.csv.gz"):
        found_x, found_y = load_arrays(tmp_path / name, "train")
        assert found_x.dtype == torch.float32
        assert found_y.dtype == torch.int64
        assert found_x.tolist() == [x]
        assert found_y.tolist() == y


def test_csv_labels_with_fractions_are_targets_of_a_regression(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("1,0.5\n2,1\n")
    assert load_arrays(tmp_path / "d.csv", "train")[1].dtype == torch.float32


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "table"), ("a,b\n", "table"), ("1\n2\n", "table"), ("1,2\n3,x\n", "could not convert"), ("1,2\n3\n", "columns")],
)
@pytest.mark.filterwarnings("ignore:loadtxt")
def test_a_broken_csv_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text(text)
    with pytest.raises(DataError, match=reason):
        load_arrays(tmp_path / "d.csv", "train")


@pytest.mark.parametrize("name", ["d.npz", "d.pt", "d.csv", "d.csv.gz"])
def test_a_file_that_is_something_else_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"not this at all\xff\xfe" * 5)
    with pytest.raises(DataError, match=name):
        load_arrays(tmp_path / name, "train")


def test_samples_and_labels_must_fit(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x_train=X, y_train=Y[:19])
    np.savez(tmp_path / "e.npz", x_train=X[:0], y_train=Y[:0], x_test=X[:0], y_test=Y[:0])
    with pytest.raises(DataError, match=r"\(18, 2\) samples do not fit \(18,\)|do not fit"):
        load_arrays(tmp_path / "d.npz", "train")
    with pytest.raises(DataError, match="at least one"):
        load_arrays(tmp_path / "e.npz", "train")


def test_words_are_not_numbers(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.array(["a", "b"]), y=Y[:2])
    with pytest.raises(DataError, match="are not numbers"):
        load_arrays(tmp_path / "d.npz", "train")


def test_unknown_formats_and_paths_are_refused_with_the_legal_ones(tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_text("1,2\n3,4\n")
    with pytest.raises(DataError, match=r"files named \*.txt are of no known format"):
        load_arrays(tmp_path / "d.txt", "train")
    with pytest.raises(DataError, match="it does not exist"):
        load_arrays(tmp_path / "none.csv", "train")
    with pytest.raises(DataError, match="no data of a known format"):
        load_arrays(tmp_path, "train")
    with pytest.raises(DataError, match=r"dataFormat = 'hdf5'.*legal: idx, npz, pt, csv"):
        load_arrays(tmp_path / "d.txt", "train", "hdf5")
    assert load_arrays(tmp_path / "d.txt", "train", "csv")[1].tolist() == [2]


def test_cifar_is_read_through_torchvision(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(DataError, match="torchvision cannot read CIFAR10 from it"):
        load_arrays(tmp_path, "train")
