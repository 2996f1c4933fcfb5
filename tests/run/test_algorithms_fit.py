"""Which algorithms, selectors, samplers and privacy presets a topology can serve: each rule with its sentence."""

import subprocess
import sys
from pathlib import Path

import pytest

from flame_run.config.folder import options
from tests.run.planned import plan, problems

REPOSITORY = Path(__file__).parents[2]
OWN = """
from roles.catalogue import Traits
from roles.strategy import Strategy


class Median(Strategy):
    traits = Traits(mergeable=False)

    def step(self, current, gathered, round):
        return gathered.mean


class Silent(Strategy):
    def step(self, current, gathered, round):
        return gathered.mean
"""


RULES = {
    "a hierarchy passes on sums": (
        ["experiment=mnist_hierarchical", "algorithm=fedasync"],
        (
            "algorithm = 'FedAsync': needs every update by itself, and the middle aggregators (middle-aggregator) pass on sums "
            "(such as algorithm=fedavg)"
        ),
    ),
    "a hierarchy hides single trainers": (
        ["experiment=mnist_hierarchical", "selector=oort"],
        (
            "selector = 'Oort': looks at single trainers at the root, and the middle aggregators (middle-aggregator) pass on sums "
            "(selector=all)"
        ),
    ),
    "a coordinator chooses by itself": (
        ["experiment=mnist_coordinated", "selector=random", "selector.k=1"],
        "selector = 'Random': who takes part in a round is for the coordinator to say in this topology (selector=all)",
    ),
    "a coordinator maps once in a round": (
        ["experiment=mnist_coordinated", "algorithm=fedgft"],
        "algorithm = 'FedGFT': asks twice in a round, and the coordinator maps trainers once (such as algorithm=fedavg)",
    ),
    "a coordinator lends on one level": (
        ["experiment=coordinated_three_level", "algorithm=fedbuff", "algorithm.k=2"],
        "algorithm = 'FedBuff': is asynchronous, and a coordinator lends trainers to one level of aggregators only",
    ),
    "who lends by no clock": (
        ["experiment=coordinated_async", "job.simulatedTime={compute: 1}"],
        (
            "job.simulatedTime = {'compute': 1}: the coordinator lends trainers to whoever asks first, "
            "which no virtual clock decides (null)"
        ),
    ),
    "asynchronous jobs select nobody": (
        ["algorithm=fedasync", "selector=random", "selector.k=1"],
        "selector = 'Random': an asynchronous aggregator asks whoever is free; see algorithm.concurrency (selector=all)",
    ),
    "asynchronous jobs have no whole rounds": (
        ["algorithm=fedasync", "sampler=fedbalancer"],
        "sampler = 'FedBalancer': steers whole rounds, and an asynchronous job has none (sampler=all)",
    ),
    "a deadline is none in an asynchronous job": (
        ["algorithm=fedasync", "faults.deadline=5"],
        "faults.deadline = 5.0: a round of FedAsync closes with its updates, whenever they come (null)",
    ),
    "a buffer that ends cannot fill": (
        ["algorithm=fedbuff"],
        "algorithm.k = 10: aggregator-0 has 4 ends, and each counts once in a buffer (at most 4, or algorithm.repeat=true)",
    ),
    "a middle aggregator's buffer that ends cannot fill": (
        ["experiment=mnist_hierarchical", "algorithm=fedbuff", "algorithm.k=2", "algorithm.middle_k=3"],
        (
            "algorithm.middle_k = 3: middle-aggregator-0 has 2 ends (and 1 other aggregator fewer than 3), "
            "and each counts once in a buffer (at most 2, or algorithm.repeat=true)"
        ),
    ),
    "differences of differences": (
        ["algorithm=fedbuff", "algorithm.k=2", "transport.codec={param-channel: {upload: [delta, int8]}}"],
        "transport.codec = ['param-channel']: the updates of FedBuff are differences already (codecs without delta)",
    ),
    "codecs know weights only": (
        ["algorithm=scaffold", "transport.codec={param-channel: {upload: [int8]}}"],
        "transport.codec = ['param-channel']: Scaffold sends tensors besides the weights, which codecs do not encode ({})",
    ),
    "a part of the model below a middle aggregator": (
        ["experiment=mnist_hierarchical", "+job.roles.trainer.share.include=[network.1.*]"],
        "job.roles.trainer.share = '': the sums of middle aggregators hold all entries (roles whose updates go to the root)",
    ),
    "a part of the model needs a plain algorithm": (
        ["algorithm=feddyn", "+job.roles.trainer.share.include=[network.1.*]"],
        (
            "job.roles.trainer.share = '': FedDyn corrects every entry by the number of all trainers in the round, "
            "so that all trainers need all entries (such as algorithm=fedavg)"
        ),
    ),
    "a part of the model is for data consumers": (
        ["+job.roles.aggregator.share.include=[network.1.*]"],
        "job.roles.aggregator.share = '': only data consumers exchange a part of the model (a role with isDataConsumer: true)",
    ),
    "the job and the role both say what is exchanged": (
        ["job.share.include=[network.*]", "+job.roles.trainer.share.include=[network.1.*]"],
        (
            "job.roles.trainer.share.include = ['network.1.*']: the job and the role both say what is exchanged "
            "(one of the two; job.share.exclude holds for all)"
        ),
    ),
    "codecs encode the whole model": (
        ["transport.codec={param-channel: {upload: [int8]}}", "+job.roles.trainer.share.include=[network.1.*]"],
        "job.roles.trainer.share = '': codecs encode the whole model (transport.codec={})",
    ),
    "a server step needs a server": (
        ["experiment=distributed", "algorithm=fedadam"],
        "algorithm = 'FedAdam': takes a step at a server, and this topology has none (algorithm=fedavg or fedprox)",
    ),
    "a ring averages weights": (
        ["experiment=hybrid", "algorithm=scaffold"],
        (
            "algorithm = 'Scaffold': sends tensors besides the weights, and the ring of role trainer averages trained weights "
            "as the job says (such as algorithm=fedavg)"
        ),
    ),
    "a ring needs all of its workers": (
        ["experiment=hybrid", "selector=random", "selector.k=1"],
        "selector = 'Random': all workers of role trainer are needed in their ring (selector=all)",
    ),
    "a ring knows no virtual clock": (
        ["experiment=hybrid", "job.simulatedTime={compute: 2}"],
        "job.simulatedTime = {'compute': 2}: the ring of role trainer knows no virtual clock (null)",
    ),
    "an algorithm in the wrong group": (
        ["algorithm._target_=roles.selectors.oort.Oort"],
        "algorithm._target_ = 'roles.selectors.oort.Oort': is of the group selector (the `_target_` of a roles.strategy.Strategy)",
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_what_does_not_fit_is_told_in_one_sentence(name: str) -> None:
    overrides, sentence = RULES[name]
    assert any(found.startswith(sentence) for found in problems(*overrides))


@pytest.mark.parametrize(
    "overrides",
    [
        ["algorithm=fedbuff", "algorithm.k=4"],
        ["algorithm=fedbuff", "algorithm.repeat=true"],
        ["algorithm=fedasync"],
        ["experiment=mnist_hierarchical", "algorithm=fedbuff", "algorithm.k=2"],
        ["experiment=mnist_hierarchical", "algorithm=scaffold"],
        ["+job.roles.trainer.share.exclude=[network.1.*]", "job.share.exclude=[network.3.*]"],
        ["algorithm=fedadam", "job.order=arrival"],
    ],
)
def test_what_fits_is_let_through(overrides: list[str]) -> None:
    assert plan(*overrides).workers


def test_a_strategy_in_a_file_of_ones_own_is_asked_for_its_traits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_fit.py").write_text(OWN)
    monkeypatch.setattr(sys, "path", list(sys.path))
    here = [f"python_path=[{tmp_path}]", "algorithm._target_=own_fit.Median"]
    assert plan(*here).workers
    (found,) = problems("experiment=mnist_hierarchical", *here)
    assert found.startswith("algorithm = 'Median': needs every update by itself")
    silent = [here[0], "algorithm._target_=own_fit.Silent"]
    assert plan("experiment=mnist_hierarchical", *silent).workers, "what says nothing is taken for a plain mean"


TRACES = {
    "has no column network": "worker,round,compute\n",
    "line 3: rounds count from 1": "worker,round,compute,network\na,1,1,0\na,0,1,0\n",
    "line 2: rounds count from 1, seconds from 0": "worker,round,compute,network\na,1,-1,0\n",
    "could not convert string to float: 'soon'": "worker,round,compute,network\na,1,soon,0\n",
    "names no worker of this job, only nobody": "worker,round,compute,network\nnobody,1,1,0\n",
    "line 3: round 1 of trainer-0 is there already": "worker,round,compute,network\ntrainer-0,1,1,0\ntrainer-0,1,2,0\n",
    "line 2: too few or too many values": "worker,round,compute,network\ntrainer-0,1,1\n",
    "holds no line but its columns": "worker,round,compute,network\n",
}


@pytest.mark.parametrize("reason", TRACES)
def test_a_trace_that_cannot_be_used_is_told_with_its_line(reason: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(TRACES[reason])
    (found,) = problems(f"job.simulatedTime={{trace: {path}}}")
    assert found.startswith(f"job.simulatedTime.trace = '{path}': ")
    assert reason in found
    assert found.endswith("(a CSV with worker, round, compute, network)")


def test_a_trace_that_is_not_there_is_told() -> None:
    (found,) = problems("job.simulatedTime={trace: nowhere.csv}")
    assert "cannot be read" in found


def test_a_trace_of_some_workers_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("worker,round,compute,network\ntrainer-0,1,1.5,0\ntrainer-0,2,2.5,0.25\n")
    assert plan(f"job.simulatedTime={{trace: {path}}}").workers


@pytest.mark.parametrize(
    ("given", "place", "reason"),
    [
        ("{workers: {trainer-9: 2}}", "job.simulatedTime.workers.trainer-9", "there is no such worker"),
        ("{compute: -1}", "job.simulatedTime.compute", "minimum"),
        ("{workers: {trainer-0: 0}}", "job.simulatedTime.workers.trainer-0", "minimum"),
        ("{speed: 1}", "job.simulatedTime.speed", "unknown key"),
    ],
)
def test_a_virtual_clock_that_cannot_be_is_told(given: str, place: str, reason: str) -> None:
    (found,) = problems(f"job.simulatedTime={given}")
    assert found.startswith(place), found


NEEDY = ("fedgft", "trace")
"""Choices that are nothing without a value of one's own."""


def test_a_plan_with_any_shipped_algorithm_needs_no_torch() -> None:
    """Where nothing is changed: a value of one's own is checked by the class."""
    groups = ("algorithm", "selector", "sampler", "privacy")
    choices = {group: [name for name in options(group) if name not in NEEDY] for group in groups}
    words = [[f"{group}={name}"] for group, names in choices.items() for name in names]
    words += [["experiment=eager"], ["job.simulatedTime={compute: 2}"], ["+job.roles.trainer.share.include=[network.1.*]"]]
    script = f"""
import contextlib, io, sys
from flame_run.cli import main
for words in {words!r}:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main(["plan", *words])
    heavy = {{"torch", "lightning", "mlflow", "grpc"}} & sys.modules.keys()
    assert not heavy, (words, heavy)
print("light")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.stdout == "light\n", done.stderr
