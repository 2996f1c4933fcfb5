"""For the conftest of a folder whose tests train: Lightning without its advice and banners, torch on one thread."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch

ADVICE = (
    "ignore:.*does not have many workers:Warning",
    "ignore:The number of training batches:Warning",
    "ignore:GPU available but not used:Warning",
    "ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning",
)
"""Hints about speed that Lightning gives on tiny data, and its use of what torch is about to drop."""


def let_train(items: Iterable[pytest.Item], folder: Path) -> None:
    """Keep Lightning's advice from turning into errors in the tests below `folder`."""
    for item in items:
        if folder in item.path.parents:
            for advice in ADVICE:
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
