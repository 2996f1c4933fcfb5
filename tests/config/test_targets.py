"""A typo in a `_target_` is told before anything starts, without importing what it names."""

import subprocess
import sys
from pathlib import Path

import pytest

from flame_run.config.targets import check_targets


def said(target: str) -> list[str]:
    return [str(problem) for problem in check_targets({"module": {"_target_": target}}, "model")]


@pytest.mark.parametrize(
    "target",
    [
        "flame_run.models.MnistCNN",
        "flame_run.models.mnist.MnistCNN",
        "flame_run.data.ArrayDataModule",
        "roles.algorithms.fedavg.FedAvg",
        "lightning.pytorch.callbacks.EarlyStopping",
        "torch.optim.SGD",
        "collections.OrderedDict",
        "math.sqrt",
        "pathlib.Path.home",
    ],
)
def test_what_can_be_imported_passes(target: str) -> None:
    assert said(target) == []


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("flame_run.models.mnist.MnistCCN", "did you mean 'MnistCNN'"),
        ("roles.algorithms.fedavg.FedAvgg", "did you mean 'FedAvg'"),
        ("flame_runn.models.MnistCNN", "there is no module 'flame_runn'"),
        ("flame_run.run.jobb.run", "did you mean 'job'"),
        ("MnistCNN", "MODULE.CLASS"),
    ],
)
def test_what_cannot_is_said_with_the_nearest_name(target: str, words: str) -> None:
    (problem,) = said(target)
    assert problem.startswith("model.module._target_ = ")
    assert words in problem


def test_a_users_own_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_digits.py").write_text("import torch_that_is_not_there\nclass Digits: ...\n")
    (tmp_path / "my_late.py").write_text("try:\n    from a import Thing\nexcept ImportError:\n    Thing = None\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert said("my_digits.Digits") == []
    assert "did you mean 'Digits'" in said("my_digits.Digit")[0]
    assert said("my_late.Anything") == []


def test_targets_are_found_wherever_they_stand() -> None:
    node = {"callbacks": [{"_target_": "lightning.pytorch.callbacks.EarlyStopping"}, {"_target_": "nope.Nope"}]}
    assert [problem.place for problem in check_targets(node, "model.trainer")] == ["model.trainer.callbacks[1]._target_"]


def test_nothing_is_imported() -> None:
    code = (
        "import sys; from flame_run.config.targets import check_targets;"
        "list(check_targets([{'_target_': 'torch.optim.SGD'}, {'_target_': 'flame_run.models.mnist.MnistCNN'}], 'x'));"
        "assert not {'torch', 'lightning', 'flame_run.models.mnist'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
