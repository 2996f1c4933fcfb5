"""Declarative, Hydra-configured runner for federated and distributed learning."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flame_run.models_io import load_model

    __version__: str

__all__ = ["__version__", "load_model"]


def __getattr__(name: str) -> Any:
    """Import what was asked for only now, so that the command line starts without torch."""
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415

        return version("flame-run")
    if name == "load_model":
        from flame_run.models_io import load_model  # noqa: PLC0415

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
