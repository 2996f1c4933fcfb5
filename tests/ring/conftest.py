"""What the tests of the ring share: quiet Lightning, one torch thread, one state of the generators at the start."""

from pathlib import Path

import pytest
import torch

from tests.quiet_lightning import let_train, quiet_lightning

__all__ = ["quiet_lightning"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the tests of this folder train."""
    let_train(items, Path(__file__).parent)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Start every test from the same state of torch's generator."""
    torch.manual_seed(0)
