"""The example of FedGFT: fairer than federated averaging, at the numbers of its page."""

import json
from pathlib import Path
from typing import Any

import pytest


def test_the_penalty_lowers_the_gap_as_the_page_says(copy_of: Any, flame_run: Any) -> None:
    folder: Path = flame_run(copy_of("fedgft"), "--config-dir", "conf", "experiment=fedgft")
    found = json.loads((folder / "summary.json").read_text())["metrics"]
    assert found["parity_gap"] == pytest.approx(0.0375, abs=2e-4)
    assert found["accuracy"] == pytest.approx(0.786, abs=2e-3)


def test_federated_averaging_leaves_the_gap_that_the_page_names(copy_of: Any, flame_run: Any) -> None:
    folder: Path = flame_run(copy_of("fedgft"), "--config-dir", "conf", "experiment=fedgft", "algorithm.gamma=0")
    found = json.loads((folder / "summary.json").read_text())["metrics"]
    assert found["parity_gap"] == pytest.approx(0.189, abs=1e-3)
    assert found["opportunity_gap"] == pytest.approx(0.091, abs=1e-3)
