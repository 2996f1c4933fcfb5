"""Lightning and torchvision import in a fresh interpreter, in either order."""

import subprocess
import sys

import pytest

GUARD = "from flame_run.torchvision_guard import install; install(); "
CHECK = (
    "from torchvision.datasets import MNIST; "
    "from torchvision import transforms; from lightning.pytorch import Trainer; print('fine')"
)


def run(code: str) -> str:
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], check=False, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize(
    "imports",
    [
        "import torch; import lightning.pytorch; ",
        "import lightning.pytorch; import torch; ",
        "import torchvision; import torch; import lightning.pytorch; ",
    ],
)
def test_imports_work_in_either_order_after_the_guard(imports: str) -> None:
    assert run(GUARD + imports + CHECK) == "fine\n"


def test_torch_may_be_imported_before_the_guard() -> None:
    assert run("import torch; " + GUARD + "import lightning.pytorch; " + CHECK) == "fine\n"


def test_imports_that_failed_before_the_guard_work_after_it() -> None:
    attempt = "import contextlib\nwith contextlib.suppress(RuntimeError):\n    import lightning.pytorch\n"
    assert run(attempt + GUARD + CHECK) == "fine\n"


def test_installing_again_changes_nothing() -> None:
    assert run(GUARD + "assert install() is install(); install.cache_clear(); install(); " + CHECK) == "fine\n"


def test_importing_the_guard_imports_nothing_heavy_and_defines_nothing() -> None:
    assert (
        run("import sys, flame_run.torchvision_guard; print('torch' in sys.modules, 'torchvision' in sys.modules)")
        == "False False\n"
    )


def test_nothing_is_defined_where_torchvision_loads_its_own_operators() -> None:
    code = """
import torch
torch.ops.load_library = lambda path: None
from flame_run.torchvision_guard import install
print(install(), hasattr(torch.ops.torchvision, "nms"))
"""
    assert run(code) in ("None False\n", "None True\n")


def test_operators_that_somebody_else_defined_are_left_alone() -> None:
    code = """
import torch
mine = torch.library.Library("torchvision", "DEF")
mine.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
    assert run(code + GUARD + CHECK) == "fine\n"
