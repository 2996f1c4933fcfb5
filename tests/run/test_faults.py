"""The fault policy: what is legal by itself, with a launcher, and for a plan."""

from typing import Any

import pytest
from omegaconf import OmegaConf

from flame_run.config.groups import TransportConf
from flame_run.run.faults import FaultsConf, check_faults, check_faults_of_plan, of_channel
from flame_run.run.settings import settings_of
from flame_run.topology.plan import Channel, Plan, Worker

LOCAL = "flame_run.launch.local.LocalLauncher"


def test_the_defaults_are_legal_with_every_launcher() -> None:
    assert check_faults(FaultsConf()) == []
    assert check_faults(FaultsConf(), "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher") == []


@pytest.mark.parametrize(
    ("values", "place", "words"),
    [
        ({"on_worker_loss": "ignore"}, "faults.on_worker_loss", "no such policy"),
        ({"on_worker_loss": "restart", "max_restarts": 0}, "faults.max_restarts", "restarts no worker"),
        ({"max_restarts": -1}, "faults.max_restarts", "below 0"),
        ({"backoff": -0.5}, "faults.backoff", "below 0"),
        ({"min_ends": 0.0}, "faults.min_ends", "neither a number nor a fraction"),
        ({"min_ends": 1.5}, "faults.min_ends", "neither a number nor a fraction"),
        ({"min_ends": float("nan")}, "faults.min_ends", "neither a number nor a fraction"),
        ({"deadline": -1.0}, "faults.deadline", "below 0"),
        ({"heartbeat": 0.0}, "faults.heartbeat", "above 0"),
        ({"join_timeout": -1.0}, "faults.join_timeout", "above 0"),
        ({"join_timeout": float("nan")}, "faults.join_timeout", "above 0"),
        ({"rejoin_timeout": 0.0}, "faults.rejoin_timeout", "above 0"),
        ({"max_bad_updates": 0}, "faults.max_bad_updates", "at least 1"),
        ({"channels": {"param": {"min_ends": 1.5}}}, "faults.channels.param.min_ends", "neither a number nor a fraction"),
        ({"channels": {"param": {"quorum": 1.0}}}, "faults.channels.param.quorum", "no such key"),
    ],
)
def test_a_bad_value_is_one_problem_with_a_sentence(values: dict[str, Any], place: str, words: str) -> None:
    (problem,) = check_faults(FaultsConf(**values), LOCAL)
    assert problem.place == place
    assert words in problem.reason
    assert problem.legal


def test_everything_wrong_is_said_at_once() -> None:
    assert len(check_faults(FaultsConf(on_worker_loss="hope", min_ends=1.5, deadline=-1.0, heartbeat=0.0, join_timeout=0.0))) == 5


@pytest.mark.parametrize("launcher", ["hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
                                      "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
                                      "flame_run.launch.debug.DebugLauncher"])  # fmt: skip
def test_a_launcher_that_cannot_restart_one_worker_refuses_to_and_names_those_that_can(launcher: str) -> None:
    (problem,) = check_faults(FaultsConf(on_worker_loss="restart"), launcher)
    assert problem.place == "faults.on_worker_loss"
    assert launcher.rpartition(".")[2] in problem.reason
    assert "launcher=local" in problem.legal
    assert "external" in problem.legal
    assert check_faults(FaultsConf(on_worker_loss="continue"), launcher) == []


@pytest.mark.parametrize("launcher", [LOCAL, "flame_run.launch.external.ExternalLauncher"])
def test_local_and_external_workers_can_be_restarted(launcher: str) -> None:
    assert check_faults(FaultsConf(on_worker_loss="restart"), launcher) == []


@pytest.fixture
def star() -> Plan:
    """An aggregator with two trainers on the channel `param`."""
    groups = {"param": "default"}
    workers = tuple(
        Worker(name=f"{role}-{index}", task_id=f"{role}{index}", role=role, index=index, groups=groups, realm="default")
        for role, index in (("top", 0), ("trainer", 0), ("trainer", 1))
    )
    tags = {"trainer": ("fetch", "upload"), "top": ("distribute", "aggregate")}
    members = {"default": {"top": ("top-0",), "trainer": ("trainer-0", "trainer-1")}}
    channel = Channel(name="param", backend="auto", pair=("trainer", "top"), func_tags=tags, groups=members)
    return Plan(job_id="a" * 24, job_name="j", schema_name="s", code={}, workers=workers, channels=(channel,))


def test_a_number_of_ends_that_an_aggregator_does_not_have_is_refused_by_name(star: Plan) -> None:
    (problem,) = check_faults_of_plan(FaultsConf(min_ends=3.0), star)
    assert (problem.place, problem.reason) == ("faults.min_ends", "top-0 has 2 ends on channel param")
    assert check_faults_of_plan(FaultsConf(min_ends=2.0), star) == []


def test_the_number_of_a_channel_goes_before_the_jobs(star: Plan) -> None:
    assert check_faults_of_plan(FaultsConf(min_ends=3.0, channels={"param": {"min_ends": 1.0}}), star) == []
    (problem,) = check_faults_of_plan(FaultsConf(channels={"param": {"min_ends": 7.0}}), star)
    assert problem.place == "faults.channels.param.min_ends"


def test_a_channel_that_is_not_there_is_told_with_the_nearest_name(star: Plan) -> None:
    (problem,) = check_faults_of_plan(FaultsConf(channels={"parm": {"min_ends": 1.0}}), star)
    assert problem.place == "faults.channels.parm"
    assert "did you mean 'param'" in problem.legal


def test_what_a_channel_does_not_say_itself_is_the_jobs() -> None:
    faults = {"min_ends": 0.5, "deadline": 9.0, "channels": {"a": {"deadline": 3.0}, "b": {"min_ends": None}, "c": None}}
    assert of_channel(faults, "a") == {"min_ends": 0.5, "deadline": 3.0}
    assert of_channel(faults, "b") == {"min_ends": None, "deadline": 9.0}
    assert of_channel(faults, "c") == of_channel(faults, "d") == {"min_ends": 0.5, "deadline": 9.0}


def test_roles_get_the_policy_as_quorums_of_the_job_and_of_its_channels() -> None:
    conf = FaultsConf(min_ends=2.0, on_worker_loss="continue", max_bad_updates=4, channels={"region": {"min_ends": 1.0}})
    config = {
        "job": {"hyperparameters": {"rounds": 1}},
        "faults": OmegaConf.to_container(OmegaConf.structured(conf)),
        "checkpoint": {"every": 1, "keep": 2, "metric": None, "mode": None},
        "transport": OmegaConf.to_container(OmegaConf.structured(TransportConf), enum_to_str=True),
    }
    settings = settings_of(config)
    quorum, region = settings.quorum_of("other"), settings.quorum_of("region")
    assert (quorum.min_ends, quorum.survivors, quorum.max_bad_updates) == (2.0, True, 4)
    assert (quorum.join_timeout, quorum.rejoin_timeout) == (120.0, 30.0)
    assert (region.min_ends, region.survivors, region.max_bad_updates) == (1.0, True, 4)


def test_hydra_can_type_the_group() -> None:
    node = OmegaConf.merge(OmegaConf.structured(FaultsConf), {"heartbeat": 5})
    assert OmegaConf.to_object(node) == FaultsConf(heartbeat=5.0)
