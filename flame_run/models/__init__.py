"""Models that ship with the package; each is imported when first asked for, so that importing this needs no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flame_run.models.classifier import Classifier
    from flame_run.models.mlp import MnistMLP
    from flame_run.models.mnist import MnistCNN, MnistLargeCNN
    from flame_run.models.null import NullModel
    from flame_run.models.views import MnistViews

__all__ = ["Classifier", "MnistCNN", "MnistLargeCNN", "MnistMLP", "MnistViews", "NullModel"]

_HOMES = {
    "Classifier": "classifier",
    "MnistCNN": "mnist",
    "MnistLargeCNN": "mnist",
    "MnistMLP": "mlp",
    "MnistViews": "views",
    "NullModel": "null",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
