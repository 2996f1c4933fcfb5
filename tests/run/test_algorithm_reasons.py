"""Each algorithm is refused for what it does: the reasons by themselves, and none of them twice."""

import re
import sys
from pathlib import Path

import pytest

from roles.catalogue import TRAITS
from tests.run.planned import plan, problems

OWN = """
from roles.catalogue import Traits
from roles.strategy import Strategy


class Median(Strategy):
    traits = Traits(mergeable=False)

    def step(self, current, gathered, round):
        return gathered.mean


class Whole(Median):
    traits = Traits(mergeable=False, needs_all_updates=True)
"""
NOT_PLAIN = {
    "scaffold": ("sends tensors besides the weights", "sends tensors besides the weights"),
    "fednova": ("sends numbers besides the weights", "scales every entry by the steps of all trainers"),
    "fedgft": ("asks all trainers about the model before they train", "asks all trainers about the same whole model"),
    "feddyn": ("weights updates in its own way", "corrects every entry by the number of all trainers in the round"),
    "fedbuff": ("is asynchronous", "divides every entry by all updates of a buffer"),
    "fedasync": ("is asynchronous", "moves the whole global model towards each update"),
}
"""Algorithm -> why rings, and trainers with different parts of the model, cannot have it."""


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_each_algorithm_is_refused_for_what_it_does(name: str) -> None:
    in_rings, in_parts = NOT_PLAIN[name]
    (ring,) = problems("experiment=hybrid", f"algorithm={name}")
    assert f": {in_rings}, and the " in ring
    (part,) = problems(f"algorithm={name}", "+job.roles.trainer.share.include=[network.1.*]")
    assert f" {in_parts}, so that all trainers need all entries" in part


def test_every_shipped_algorithm_that_is_not_plain_has_its_reasons_tested() -> None:
    listed = {target.rpartition(".")[2].lower() for target, own in TRAITS.items() if ".algorithms." in target and not own.plain}
    assert listed == set(NOT_PLAIN)


def test_a_buffer_that_is_too_large_everywhere_is_one_problem() -> None:
    (found,) = problems("experiment=mnist_four_tier", "algorithm=fedbuff")
    assert re.match(
        r"algorithm\.k = 10: [\w-]+ has 1 end \(and \d other aggregators fewer than 10\), and each counts once in a buffer", found
    )


def test_sizes_of_what_is_refused_anyway_are_beside_the_point() -> None:
    assert [found.partition(" = ")[0] for found in problems("experiment=hybrid", "algorithm=fedbuff")] == ["algorithm"]


def test_an_own_strategy_that_needs_all_updates_is_refused_where_sums_are_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_whole.py").write_text(OWN)
    monkeypatch.setattr(sys, "path", list(sys.path))
    here = [f"python_path=[{tmp_path}]", "algorithm._target_=own_whole.Whole"]
    assert plan(*here).workers
    (found,) = problems("experiment=mnist_hierarchical", *here)
    assert found.startswith("algorithm = 'Whole': needs every update by itself")
    (ring,) = problems("experiment=hybrid", *here)
    assert "looks at every update by itself, and the ring" in ring
    (ring,) = problems("experiment=hybrid", here[0], "algorithm._target_=own_whole.Median")
    assert "does not say that it is plain (see roles/catalogue.py), and the ring" in ring
    (private,) = problems("privacy=dp", *here)
    assert "Whole looks at every update by itself, and the noise is for their sum" in private
    assert plan("privacy=dp", "privacy.noise_multiplier=0", *here).workers
