"""Kinds of nodes in typed configuration groups."""

from typing import Any

from omegaconf import DictConfig


def open_map() -> Any:
    """An empty map to which Hydra lets people add keys without a `+`."""
    return DictConfig({}, flags={"struct": False})
