"""What the tests of the matrix share: quiet Lightning, one torch thread."""

from pathlib import Path

import pytest

from tests.quiet_lightning import let_train, quiet_lightning

__all__ = ["quiet_lightning"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the jobs of this folder train."""
    let_train(items, Path(__file__).parent)
