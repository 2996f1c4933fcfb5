"""The one place that lets `import torchvision` (and so `import lightning`) work beside a torch of another build.

torchvision registers schemas such as `torchvision::nms` from its compiled extension, and then, in Python, fake kernels for
`nms` and `qnms`. Beside a torch of another build (a CPU-only torch and the package index's CUDA torchvision) the extension does
not load, torchvision skips that in silence, and the fake kernels fail with "operator torchvision::nms does not exist".
Lightning imports torchmetrics, which imports torchvision, so it fails as well.

`install()` defines the two schemas where the extension cannot. They have no kernel: calling `torchvision.ops.nms` still says
that the compiled operators are missing. Data sets, transforms and models of torchvision work. Where the builds match, nothing
is changed.

Source: torchvision/extension.py and torchvision/_meta_registrations.py (0.19 to 0.28).
"""

import sys
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.library import Library

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


@cache
def install() -> "Library | None":
    """Define the schemas that torchvision needs at import, if its own compiled extension cannot.

    To be called before the first import of torchvision or lightning; whether torch was imported before does not matter.
    Calling it again does nothing. An import of torchvision or lightning that failed earlier in this process works afterwards.

    Returns:
        The library that holds the definitions (they end with it; this function keeps it), None where none was needed.

    """
    if "torchvision" in sys.modules or _own_operators_load():
        return None
    import torch  # noqa: PLC0415 - importing this module must stay free

    # A fragment, so that a guard of the user's own, which owns the namespace, does not collide with this one.
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)  # type: ignore[no-untyped-call]
    _forget_failed_imports()
    return library


def _own_operators_load() -> bool:
    """Whether torchvision is absent, or its compiled extension loads into this torch (which then registers its operators)."""
    spec = find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return True
    import torch  # noqa: PLC0415

    folder = spec.submodule_search_locations[0]
    extension = FileFinder(folder, (ExtensionFileLoader, EXTENSION_SUFFIXES)).find_spec("_C")
    if extension is None or extension.origin is None:
        return False
    try:
        torch.ops.load_library(extension.origin)  # type: ignore[no-untyped-call]
    except (ImportError, OSError):
        return False
    return True


def _forget_failed_imports() -> None:
    """Drop submodules whose package failed to import: Python keeps them, and they are not bound to the package made next."""
    for package in ("torchvision", "torchmetrics", "lightning", "pytorch_lightning"):
        if package not in sys.modules:
            for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
                del sys.modules[name]
