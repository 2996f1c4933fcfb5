"""What the tests of the roles share: quiet Lightning, one torch thread, one state of the generators at the start."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from flame_run import torchvision_guard

torchvision_guard.install()

HERE = Path(__file__).parent
LIGHTNING_ADVICE = (
    "ignore:.*does not have many workers:Warning",
    "ignore:The number of training batches:Warning",
    "ignore:GPU available but not used:Warning",
    "ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning",
)
"""Hints about speed that Lightning gives on tiny data, and its use of what torch is about to drop."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the tests of this folder train without Lightning's advice turning into errors."""
    for item in items:
        if HERE in item.path.parents:
            for advice in LIGHTNING_ADVICE:
                item.add_marker(pytest.mark.filterwarnings(advice))


@pytest.fixture(autouse=True, scope="session")
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning's banners out of the output and torch on one thread, as workers have it."""
    loggers = [logging.getLogger(name) for name in ("lightning", "lightning.pytorch", "lightning.fabric")]
    levels, threads = [logger.level for logger in loggers], torch.get_num_threads()
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Start every test from the same state of torch's generator."""
    torch.manual_seed(0)


@pytest.fixture(params=["whole", "pieces"])
def folding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test twice: updates added whole, as small ones are, and piece by piece, as large ones are."""
    if request.param == "pieces":
        monkeypatch.setattr("roles.round.WHOLE_BYTES", -1)
        monkeypatch.setattr("transports.pieces.PIECE_BYTES", 64)
    return str(request.param)
