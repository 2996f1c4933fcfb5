"""Files that tell whether they are whole."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roles import seals
from roles.errors import BadModel
from roles.state import link_atomically, load_whole, save_sealed


def write(folder: Path, *rounds: int) -> None:
    for round in rounds:
        save_sealed({"round": round, "tensor": torch.arange(round + 3)}, seals.round_file(folder, round))


def test_a_sealed_file_is_whole_and_torch_reads_it_as_ever(tmp_path: Path) -> None:
    write(tmp_path, 3)
    path = tmp_path / "round-00003.pt"
    assert seals.broken(path) is None
    content = torch.load(path, weights_only=True)
    assert torch.equal(content["tensor"], torch.arange(6))
    assert [each.name for each in tmp_path.iterdir()] == ["round-00003.pt"]


@settings(max_examples=60)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_bit_that_flips_anywhere_is_noticed(tmp_path_factory: pytest.TempPathFactory, place: float, bit: int) -> None:
    folder = tmp_path_factory.mktemp("flip")
    write(folder, 1)
    path = seals.round_file(folder, 1)
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    path.write_bytes(data)
    assert seals.broken(path) is not None


@settings(max_examples=60)
@given(length=st.floats(0, 1, exclude_max=True), filling=st.sampled_from([b"", b"\0" * 4096]))
def test_a_file_cut_off_anywhere_is_noticed(tmp_path_factory: pytest.TempPathFactory, length: float, filling: bytes) -> None:
    folder = tmp_path_factory.mktemp("cut")
    write(folder, 1)
    path = seals.round_file(folder, 1)
    data = path.read_bytes()
    path.write_bytes(data[: int(length * len(data))] + filling)
    assert seals.broken(path) is not None


def test_the_newest_whole_file_is_found_and_what_was_passed_over_is_named(tmp_path: Path) -> None:
    write(tmp_path, 2, 4, 10)
    seals.round_file(tmp_path, 10).write_bytes(b"torn")
    seals.round_file(tmp_path, 12).write_bytes(b"")
    (tmp_path / "round-00013.pt.tmp").write_bytes(b"")
    found = seals.newest_whole(tmp_path)
    assert (found.round, found.path) == (4, seals.round_file(tmp_path, 4))
    assert [text.split("/")[-1] for text in found.torn] == [
        "round-00012.pt (its end is missing)",
        "round-00010.pt (its end is missing)",
    ]
    assert seals.newest_whole(tmp_path, at_most=3).round == 2
    assert seals.newest_whole(tmp_path, at_most=1) == seals.Found(0, None, ())
    assert seals.newest_whole(tmp_path / "nowhere") == seals.Found(0, None, ())


def test_what_cannot_be_read_back_is_refused_and_leaves_the_old_file(tmp_path: Path) -> None:
    write(tmp_path, 1)
    with pytest.raises(BadModel, match="cannot be read back"):
        save_sealed({"path": Path("no tensor")}, seals.round_file(tmp_path, 1), prove=True)
    assert load_whole(seals.round_file(tmp_path, 1))["round"] == 1
    assert [each.name for each in tmp_path.iterdir()] == ["round-00001.pt"]


def test_a_second_name_replaces_the_old_one_and_outlives_the_first(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    for round in (1, 1, 2):
        link_atomically(seals.round_file(tmp_path, round), tmp_path / "best.pt")
        assert load_whole(tmp_path / "best.pt")["round"] == round
    seals.round_file(tmp_path, 2).unlink()
    assert load_whole(tmp_path / "best.pt")["round"] == 2
    assert not list(tmp_path.glob("*.tmp"))


def test_where_files_have_one_name_only_they_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(f"{target}: this file system knows no second names")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    write(tmp_path, 1)
    link_atomically(seals.round_file(tmp_path, 1), tmp_path / "best.pt")
    assert load_whole(tmp_path / "best.pt")["round"] == 1
