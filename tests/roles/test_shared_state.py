import hashlib
import os
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from roles.errors import BadModel
from roles.settings import Share
from roles.state import load_shared, model_sha256, save_atomically, shared_state


class Body(nn.Module):
    """A frozen backbone, a head, a counter, and state that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(3, 3)
        self.backbone.requires_grad_(requires_grad=False)
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 2)

    def get_extra_state(self) -> dict[str, int]:
        return {"not": 1}

    def set_extra_state(self, state: dict[str, int]) -> None:
        assert state == {"not": 1}


class Tied(nn.Module):
    """An embedding whose weight is the decoder's, too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 2)
        self.decode = nn.Linear(2, 5, bias=False)
        self.decode.weight = self.embed.weight


def names(share: Share, module: nn.Module | None = None) -> dict[str, list[str]]:
    return {group: sorted(tensors) for group, tensors in shared_state(module or Body(), share).items()}


def test_all_tensors_are_shared_and_frozen_parameters_go_apart() -> None:
    assert names(Share()) == {
        "weights": [
            "head.bias", "head.weight",
            "norm.bias", "norm.num_batches_tracked", "norm.running_mean", "norm.running_var", "norm.weight",
        ],
        "frozen": ["backbone.bias", "backbone.weight"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("share", "weights", "frozen"),
    [
        (Share(include=("head.*",)), ["head.bias", "head.weight"], []),
        (Share(exclude=("norm.*", "backbone.*", "*.bias")), ["head.weight"], []),
        (Share(include=("head.*", "backbone.weight"), exclude=("*.bias",)), ["head.weight"], ["backbone.weight"]),
        (Share(include=("*.weigh?",), exclude=("norm.*",)), ["head.weight"], ["backbone.weight"]),
        (
            Share(parameters_only=True),
            ["head.bias", "head.weight", "norm.bias", "norm.weight"],
            ["backbone.bias", "backbone.weight"],
        ),
    ],
)
def test_patterns_choose_what_is_shared_and_exclude_wins(share: Share, weights: list[str], frozen: list[str]) -> None:
    assert names(share) == {"weights": weights, "frozen": frozen}


@pytest.mark.parametrize("share", [Share(include=("nothing",)), Share(exclude=("*",)), Share(include=("backbone.*",))])
def test_nothing_left_to_train_together_is_an_error_that_shows_the_entries(share: Share) -> None:
    with pytest.raises(BadModel, match=r"nothing to exchange: job\.share\.include=.*'head\.weight'"):
        shared_state(Body(), share)


def test_a_lazy_parameter_is_an_error_that_names_it() -> None:
    with pytest.raises(BadModel, match=r"parameter '0\.weight' is lazy"):
        shared_state(nn.Sequential(nn.LazyLinear(2)), Share())


def test_both_names_of_a_tied_weight_are_shared_and_it_stays_tied() -> None:
    module = Tied()
    assert names(Share(), module)["weights"] == ["decode.weight", "embed.weight"]
    value = torch.randn(5, 2)
    load_shared(module, {"weights": {"embed.weight": value, "decode.weight": value}})
    assert module.decode.weight is module.embed.weight
    assert torch.equal(module.embed.weight, value)


def test_both_names_of_a_frozen_tied_weight_are_frozen() -> None:
    tied = Tied()
    tied.embed.weight.requires_grad_(False)
    module = nn.ModuleDict({"tied": tied, "head": nn.Linear(2, 2)})
    assert names(Share(), module)["frozen"] == ["tied.decode.weight", "tied.embed.weight"]


def test_loading_writes_in_place_so_that_optimizers_keep_their_parameters() -> None:
    module = Body()
    before = {
        name: value.data_ptr() for name, value in module.state_dict(keep_vars=True).items() if isinstance(value, torch.Tensor)
    }
    groups = {
        group: {n: torch.ones_like(t) for n, t in tensors.items()} for group, tensors in shared_state(module, Share()).items()
    }
    load_shared(module, groups)
    after = {name: value for name, value in module.state_dict().items() if isinstance(value, torch.Tensor)}
    assert {name: value.data_ptr() for name, value in after.items()} == before
    assert all(bool((value == 1).all()) for value in after.values())
    assert module.head.weight.requires_grad


@pytest.mark.parametrize(
    ("entry", "value", "text"),
    [
        ("head.weight", torch.ones(3, 3), r"'head.weight' of shape \(3, 3\), this worker's module has \(2, 3\)"),
        ("tail.weight", torch.ones(3), r"'tail.weight' of shape \(3,\), this worker's module has none"),
    ],
)
def test_a_model_that_does_not_fit_is_an_error_that_says_where(entry: str, value: torch.Tensor, text: str) -> None:
    with pytest.raises(BadModel, match=text):
        load_shared(Body(), {"weights": {entry: value}})


PACKING = {
    torch.float64: ("float64", "d"),
    torch.float32: ("float32", "f"),
    torch.float16: ("float16", "e"),
    torch.int64: ("int64", "q"),
    torch.int16: ("int16", "h"),
    torch.uint8: ("uint8", "B"),
    torch.bool: ("bool", "?"),
}


def sha256_of(state: dict[str, torch.Tensor]) -> str:
    """Design 2.5 word by word: for each key in sorted order its name, dtype, shape and little-endian bytes."""
    parts = []
    for name, value in sorted(state.items()):
        dtype, code = PACKING[value.dtype]
        parts.append(f"{name}\0{dtype}\0{tuple(value.shape)}\0".encode())
        parts.append(struct.pack(f"<{value.numel()}{code}", *value.flatten().tolist()))
    return hashlib.sha256(b"".join(parts)).hexdigest()


shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
entries = st.dictionaries(st.text(min_size=1, max_size=8), st.tuples(st.sampled_from(list(PACKING)), shapes), max_size=5)


@given(entries=entries, seed=st.integers(0, 100))
def test_the_fingerprint_follows_its_definition(entries: dict[str, tuple[torch.dtype, tuple[int, ...]]], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    state = {name: (torch.randn(shape, generator=generator) * 2).to(dtype) for name, (dtype, shape) in entries.items()}
    assert model_sha256(state) == sha256_of(state)


def test_the_fingerprint_sees_order_strides_and_gradients_not_but_any_bit() -> None:
    value = torch.randn(4, 3)
    one = model_sha256({"a": value, "b": torch.zeros(2)})
    assert one == model_sha256({"b": torch.zeros(2), "a": value.t().contiguous().t().requires_grad_()})
    assert one != model_sha256({"a": value, "b": -torch.zeros(2)})
    assert one != model_sha256({"a": value.reshape(3, 4), "b": torch.zeros(2)})
    assert one != model_sha256({"a": value, "c": torch.zeros(2)})
    assert model_sha256({"a": torch.zeros(1)}) != model_sha256({"a": torch.zeros(1, dtype=torch.int32)})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.complex64, torch.uint64])
def test_every_type_that_travels_has_a_fingerprint(dtype: torch.dtype) -> None:
    assert len(model_sha256({"a": torch.zeros(3, 2).to(dtype), "s": torch.zeros(()).to(dtype)})) == 64


def test_a_saved_state_is_read_back_and_nothing_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "model.pt"
    for value in (1.0, 2.0):
        save_atomically({"w": torch.full((3,), value)}, path)
        assert torch.load(path, weights_only=True)["w"].tolist() == [value] * 3
    assert [file.name for file in path.parent.iterdir()] == ["model.pt"]


def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.pt"
    save_atomically({"w": torch.ones(3)}, path)

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_atomically({"w": torch.zeros(3)}, path)
    assert torch.load(path, weights_only=True)["w"].tolist() == [1.0] * 3
