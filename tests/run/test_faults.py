"""The fault policy: what is legal, and what this version serves."""

import pytest
from omegaconf import OmegaConf

from flame_run.run.faults import FaultsConf, check_faults


def test_the_defaults_are_served():
    assert check_faults(FaultsConf()) == []


@pytest.mark.parametrize(
    ("values", "place", "words"),
    [
        ({"on_worker_loss": "continue"}, "faults.on_worker_loss", "does not serve it"),
        ({"on_worker_loss": "restart"}, "faults.on_worker_loss", "does not serve it"),
        ({"on_worker_loss": "ignore"}, "faults.on_worker_loss", "no such policy"),
        ({"min_ends": 2}, "faults.min_ends", "does not serve it"),
        ({"min_ends": 0.5}, "faults.min_ends", "does not serve it"),
        ({"deadline": 5.0}, "faults.deadline", "does not serve it"),
        ({"max_restarts": 1}, "faults.max_restarts", "does not serve it"),
        ({"heartbeat": 0.0}, "faults.heartbeat", "above 0"),
        ({"join_timeout": -1.0}, "faults.join_timeout", "above 0"),
        ({"join_timeout": float("nan")}, "faults.join_timeout", "above 0"),
    ],
)
def test_what_is_not_served_is_refused_with_a_sentence(values, place, words):
    (problem,) = check_faults(FaultsConf(**values))
    assert problem.place == place
    assert words in problem.reason
    assert problem.legal


def test_everything_wrong_is_said_at_once():
    conf = FaultsConf(on_worker_loss="continue", min_ends=1, deadline=1.0, max_restarts=1, heartbeat=0.0, join_timeout=0.0)
    assert len(check_faults(conf)) == 6


def test_hydra_can_type_the_group():
    node = OmegaConf.merge(OmegaConf.structured(FaultsConf), {"heartbeat": 5})
    assert OmegaConf.to_object(node) == FaultsConf(heartbeat=5.0)
