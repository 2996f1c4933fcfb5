import gzip
import zlib
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from flame_run.data.unpack import LEAST, unpack

LARGE = np.random.default_rng(0).integers(0, 4, LEAST + 7, np.uint8).tobytes()


def entries(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file() and not path.name.startswith(".")]


def test_large_data_is_unpacked_once_and_then_mapped(tmp_path: Path) -> None:
    packed = gzip.compress(LARGE, mtime=0)
    assert unpack(packed, tmp_path).tobytes() == LARGE
    (entry,) = entries(tmp_path)
    before = entry.stat()
    again = unpack(packed, tmp_path)
    assert isinstance(again, np.memmap)
    assert again.tobytes() == LARGE
    assert entry.stat().st_mtime_ns == before.st_mtime_ns


def test_what_a_process_writes_into_mapped_data_stays_its_own(tmp_path: Path) -> None:
    packed = gzip.compress(LARGE)
    unpack(packed, tmp_path)
    mine = unpack(packed, tmp_path)
    mine[:] = 9
    assert unpack(packed, tmp_path).tobytes() == LARGE


def test_small_data_leaves_no_file(tmp_path: Path) -> None:
    found = unpack(gzip.compress(b"few"), tmp_path)
    found[0] = ord("F")
    assert found.tobytes() == b"Few"
    assert entries(tmp_path) == []


def test_a_broken_entry_of_the_cache_is_made_anew(tmp_path: Path) -> None:
    packed = gzip.compress(LARGE)
    unpack(packed, tmp_path)
    (entry,) = entries(tmp_path)
    for content in (LARGE[:100], b""):
        entry.write_bytes(content)
        assert unpack(packed, tmp_path).tobytes() == LARGE
        assert entry.read_bytes() == LARGE


def test_while_another_process_writes_the_entry_the_data_is_unpacked_into_memory(tmp_path: Path) -> None:
    packed = gzip.compress(LARGE)
    unpack(packed, tmp_path)
    (entry,) = entries(tmp_path)
    entry.unlink()
    with FileLock(entry.with_name(f".{entry.name}.lock")):
        assert unpack(packed, tmp_path).tobytes() == LARGE
    assert entries(tmp_path) == []


def test_a_cache_that_cannot_be_made_is_done_without(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert unpack(gzip.compress(LARGE), file).tobytes() == LARGE


def test_data_in_several_members_is_unpacked_but_not_kept(tmp_path: Path) -> None:
    assert unpack(gzip.compress(b"head") + gzip.compress(LARGE), tmp_path).tobytes() == b"head" + LARGE
    assert entries(tmp_path) == []


@pytest.mark.parametrize("cut", [3, 17, LEAST // 8])
def test_broken_data_is_an_error_and_leaves_no_file(tmp_path: Path, cut: int) -> None:
    with pytest.raises((OSError, EOFError, zlib.error)):
        unpack(gzip.compress(LARGE)[:-cut] + bytes(cut - 1) + b"\x10", tmp_path)
    assert entries(tmp_path) == []
