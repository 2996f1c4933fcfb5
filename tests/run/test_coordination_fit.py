"""What a topology with a coordinator cannot serve, and what it can."""

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra

from flame_run.config.folder import conf_dir
from flame_run.config.groups import register
from flame_run.errors import InvalidConfig
from flame_run.run.checks import plan_of
from flame_run.topology.plan import Plan

CLOCK = "the coordinator lends trainers to whoever asks first, which no virtual clock decides"
LEVELS = "is asynchronous, and a coordinator lends trainers to one level of aggregators only"
RULES = {
    f"job.simulatedTime = {{'compute': 1.0}}: {CLOCK} (null)": ["coordinated_async", "job.simulatedTime={compute: 1.0}"],
    f"algorithm = 'FedBuff': {LEVELS} (such as algorithm=fedavg)": [
        "coordinated_three_level",
        "algorithm=fedbuff",
        "algorithm.k=1",
    ],
}


def plan(*overrides: str) -> Plan:
    register()
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return plan_of(hydra.compose("config", ["python_path=[]", *overrides]))


@pytest.mark.parametrize("sentence", RULES)
def test_what_a_coordinator_cannot_serve_is_told_in_one_sentence(sentence: str) -> None:
    experiment, *overrides = RULES[sentence]
    with pytest.raises(InvalidConfig) as caught:
        plan(f"experiment={experiment}", *overrides)
    assert [str(problem) for problem in caught.value.problems] == [sentence]
    assert caught.value.exit_status == 2


@pytest.mark.parametrize("experiment", ["mnist_coordinated", "coordinated_three_level"])
def test_a_virtual_clock_runs_in_coordinated_rounds(experiment: str) -> None:
    assert plan(f"experiment={experiment}", "job.simulatedTime={compute: 1.0}").workers
