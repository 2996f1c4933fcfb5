"""A CA of the test's own, and another that nobody believes."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.security.pki import Pki, Warned


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path / "pki")


@pytest.fixture
def foreign(tmp_path: Path) -> Pki:
    return Pki(tmp_path / "foreign")


@pytest.fixture
def warned() -> Iterator[Warned]:
    handler = Warned()
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)
