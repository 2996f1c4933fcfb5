"""Where data comes from, how it is read, and how one source is cut into many datasets.

`urls` and `partition` need no torch; the names below that do are imported when first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flame_run.data.arrays import load_arrays
    from flame_run.data.cut import cut_data_module, samples
    from flame_run.data.errors import DataError
    from flame_run.data.module import ArrayDataModule
    from flame_run.data.urls import check_url, locate
    from flame_run.data.views import ViewDataModule

__all__ = ["ArrayDataModule", "DataError", "ViewDataModule", "check_url", "cut_data_module", "load_arrays", "locate", "samples"]

_HOMES = {
    "ArrayDataModule": "module",
    "DataError": "errors",
    "ViewDataModule": "views",
    "check_url": "urls",
    "cut_data_module": "cut",
    "load_arrays": "arrays",
    "locate": "urls",
    "samples": "cut",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
