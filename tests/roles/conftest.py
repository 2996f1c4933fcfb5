"""What the tests of the roles share: quiet Lightning, one torch thread, one state of the generators at the start."""

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


@pytest.fixture(params=["whole", "pieces"])
def folding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test twice: updates added whole, as small ones are, and piece by piece, as large ones are."""
    if request.param == "pieces":
        monkeypatch.setattr("roles.rounds.intake.WHOLE_BYTES", -1)
        monkeypatch.setattr("transports.pieces.PIECE_BYTES", 64)
    return str(request.param)
