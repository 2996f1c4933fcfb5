"""What `privacy=dp` goes with: nothing is let through whose epsilon would be too small."""

import sys
from pathlib import Path

import pytest

from flame_run.config.folder import options
from tests.run.planned import plan, problems

OWN = """
from roles.algorithms.fedbuff import FedBuff
from roles.catalogue import TRAITS, Traits
from roles.privacy.privacy import Privacy
from roles.selectors.uniform import Random
from roles.strategy import Buffer


class Again(FedBuff):
    def buffer(self, *, root):
        return Buffer(size=2, repeat=True)


class Rising(FedBuff):
    def staleness_weight(self, staleness):
        return 1.0 + 0.5 * (staleness == 3)


class Favourites(Random):
    pass


class OwnNoise(Privacy):
    traits = Traits()
"""
RANDOM = ["privacy=dp", "selector=random", "selector.k=2"]
SAMPLED = ["privacy.sampling=without_replacement", "privacy.clients_per_round=2"]
CLIP_ONLY = "privacy.noise_multiplier=0"
RULES = {
    "several updates of one client in a sum": (
        ["privacy=dp", "algorithm=fedbuff", "algorithm.repeat=true"],
        "algorithm.repeat = True: several updates of one client may be in a sum, and the noise is for one (false, or ",
    ),
    "several updates of one client in a sum, with a coordinator": (
        ["experiment=coordinated_async", "privacy=dp", "algorithm.repeat=true"],
        "algorithm.repeat = True: several updates of one client may be in a sum, and the noise is for one (false, or ",
    ),
    "a buffer is not filled by repeating": (
        ["privacy=dp", "algorithm=fedbuff", "algorithm.k=9"],
        "algorithm.k = 9: aggregator-0 has 4 ends, and each counts once in a buffer (at most 4)",
    ),
    "nobody draws as Poisson sampling does": (
        [*RANDOM, "privacy.sampling=poisson", "privacy.clients_per_round=2"],
        (
            "privacy.sampling = 'poisson': no selector draws each client by itself, as Poisson sampling does: "
            "selector=random draws a fixed number (without_replacement, or none)"
        ),
    ),
    "everybody is no draw": (
        ["privacy=dp", *SAMPLED],
        "privacy.sampling = 'without_replacement': All is not the uniform draw of a fixed number that epsilon would rely on ",
    ),
    "a trace is no draw": (
        ["privacy=dp", *SAMPLED, "selector=trace", "selector.intervals={trainer-0: [[1, 2]]}"],
        "privacy.sampling = 'without_replacement': Trace is not the uniform draw of a fixed number that epsilon would rely on ",
    ),
    "another number is drawn": (
        [*RANDOM, *SAMPLED, "selector.k=3"],
        (
            "privacy.clients_per_round = 2: aggregator-0 draws 3 of its 4 clients for a round, and epsilon relies on "
            "privacy.clients_per_round (3, or selector.k=2)"
        ),
    ),
    "another part is drawn": (
        [*RANDOM, *SAMPLED, "selector.k=0.3"],
        "privacy.clients_per_round = 2: aggregator-0 draws 1 of its 4 clients for a round",
    ),
    "middle aggregators draw by themselves": (
        ["experiment=mnist_hierarchical", *RANDOM, *SAMPLED],
        (
            "privacy.sampling = 'without_replacement': middle aggregators (middle-aggregator) choose each among their own "
            "trainers, so that no draw is of all clients (none)"
        ),
    ),
    "a coordinator draws nobody": (
        ["experiment=mnist_coordinated", "privacy=dp", *SAMPLED],
        "privacy.sampling = 'without_replacement': who takes part in a round is for the coordinator to say in this topology (none)",
    ),
    "asynchronous rounds draw nobody": (
        ["privacy=dp", "algorithm=fedbuff", "algorithm.k=2", *SAMPLED],
        "privacy.sampling = 'without_replacement': who takes part in a round of FedBuff is not drawn at random (none)",
    ),
    "who is lost tells of the draw": (
        [*RANDOM, *SAMPLED, "faults.on_worker_loss=continue"],
        "faults.on_worker_loss = 'continue': a round that goes on without a client tells who was drawn, and epsilon relies on ",
    ),
    "who is late tells of the draw": (
        [*RANDOM, *SAMPLED, "faults.min_ends=1", "faults.deadline=5"],
        "faults.min_ends = 1.0: a round that goes on without a client tells who was drawn, and epsilon relies on ",
    ),
    "who is late on a channel tells of the draw": (
        [*RANDOM, *SAMPLED, "faults.channels={param-channel: {min_ends: 1}}"],
        "faults.channels.param-channel.min_ends = 1: a round that goes on without a client tells who was drawn, and epsilon ",
    ),
    "answers to surveys": (
        ["privacy=dp", "algorithm=fedgft", "algorithm.sensitive_feature=0"],
        (
            "privacy = 'DifferentialPrivacy': FedGFT asks every trainer for sums over its data before it trains, which get no "
            "noise (privacy=none, or privacy.noise_multiplier=0 to clip only)"
        ),
    ),
    "losses": (
        ["privacy=dp", "selector=oort"],
        (
            "privacy = 'DifferentialPrivacy': Oort looks at numbers that single trainers report, which get no noise "
            "(privacy=none, or privacy.noise_multiplier=0 to clip only)"
        ),
    ),
    "losses by way of a trace": (
        [
            "privacy=dp",
            "selector=trace",
            "selector.intervals={trainer-0: [[1, 2]]}",
            "selector.inner={_target_: roles.selectors.oort.Oort}",
        ],
        "privacy = 'DifferentialPrivacy': Trace looks at numbers that single trainers report, which get no noise",
    ),
    "losses of samples": (
        ["privacy=dp", "sampler=fedbalancer"],
        "privacy = 'DifferentialPrivacy': FedBalancer looks at numbers that single trainers report, which get no noise",
    ),
    "weights by steps": (
        ["privacy=dp", "algorithm=fednova"],
        (
            "privacy = 'DifferentialPrivacy': FedNova weights each update by how far its steps went, and here every update counts "
            "the same (privacy=none)"
        ),
    ),
    "weights by steps, without noise": (
        ["privacy=dp", "algorithm=fednova", CLIP_ONLY],
        "privacy = 'DifferentialPrivacy': FedNova weights each update by how far its steps went",
    ),
    "entries of some roles": (
        ["privacy=dp", "+job.roles.trainer.share.include=[network.1.*]"],
        (
            "privacy = 'DifferentialPrivacy': the mean of an entry that only some roles share is over fewer updates, for which "
            "its noise is too small; see job.roles.ROLE.share"
        ),
    ),
    "rings": (
        ["experiment=hybrid", "privacy=dp", CLIP_ONLY],
        "privacy = 'DifferentialPrivacy': the workers of role trainer exchange parts of their weights with each other",
    ),
    "a root with fewer clients than are planned": (
        ["experiment=mnist_parallel", "privacy=dp", "privacy.clients_per_round=3"],
        "privacy = 'DifferentialPrivacy': DifferentialPrivacy.clients_per_round = 3 must be at most the 2 clients of the job",
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_what_privacy_does_not_go_with_is_told_in_one_sentence(name: str) -> None:
    overrides, sentence = RULES[name]
    (found,) = problems(*overrides)
    assert found.startswith(sentence)


@pytest.mark.parametrize(
    "overrides",
    [
        [*RANDOM, *SAMPLED],
        [*RANDOM, *SAMPLED, "selector.k=0.5"],
        [*RANDOM, *SAMPLED, "faults.on_worker_loss=restart"],
        ["experiment=mnist_parallel", "privacy=dp", "selector=random", "selector.k=0.5", SAMPLED[0], "privacy.clients_per_round=1"],
        [*RANDOM, "privacy.clients_per_round=3", "privacy.side=client"],
        [*RANDOM, "faults.on_worker_loss=continue"],
        ["experiment=mnist_hierarchical", *RANDOM, "selector.k=1"],
        ["experiment=mnist_coordinated", "privacy=dp"],
        ["experiment=coordinated_async", "privacy=dp"],
        ["experiment=async_hierarchical", "privacy=dp"],
        ["privacy=dp", CLIP_ONLY, "algorithm=fedbuff", "algorithm.repeat=true"],
        ["privacy=dp", CLIP_ONLY, "algorithm=fedgft", "algorithm.sensitive_feature=0"],
        ["privacy=dp", CLIP_ONLY, "selector=oort"],
        ["privacy=dp", CLIP_ONLY, "selector=power_of_choice"],
        ["privacy=dp", CLIP_ONLY, "sampler=fedbalancer"],
        ["privacy=dp", CLIP_ONLY, "selector=random", "privacy.sampling=without_replacement", "privacy.clients_per_round=3"],
        ["privacy=dp", CLIP_ONLY, "+job.roles.trainer.share.include=[network.1.*]"],
    ],
)
def test_what_privacy_goes_with_is_let_through(overrides: list[str]) -> None:
    assert plan(*overrides).workers


SIZED = {"fedbuff": ["algorithm.k=2"]}
REFUSED = {"fedbalancer", "fednova", "fedgft", "oort"}


@pytest.mark.parametrize("name", [name for name in options("algorithm") if name not in REFUSED])
@pytest.mark.parametrize("experiment", ["mnist_two_tier", "mnist_hierarchical"])
def test_every_other_algorithm_is_private_with_and_without_noise(experiment: str, name: str) -> None:
    if (experiment, name) == ("mnist_hierarchical", "fedasync"):
        pytest.skip("the topology cannot serve it")
    for noise in ("1.0", "0"):
        words = [f"experiment={experiment}", f"algorithm={name}", "privacy=dp", f"privacy.noise_multiplier={noise}"]
        assert plan(*words, *SIZED.get(name, [])).workers


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_private.py").write_text(OWN)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return f"python_path=[{tmp_path}]"


def test_own_classes_are_asked_what_they_do(own: str) -> None:
    again = [own, "privacy=dp", "algorithm=fedbuff", "algorithm.k=2", "algorithm._target_=own_private.Again"]
    (found,) = problems(*again)
    assert found.startswith("algorithm.repeat = True: several updates of one client may be in a sum")
    assert plan(*again, CLIP_ONLY).workers
    (found,) = problems(own, "privacy=dp", "algorithm=fedbuff", "algorithm.k=2", "algorithm._target_=own_private.Rising")
    assert found == (
        "algorithm = 'Rising': an update that is 3 rounds old counts 1.5, and the noise is for at most 1 "
        "(a `staleness_weight` of at most 1)"
    )


def test_own_selectors_are_no_draw_and_own_presets_do_not_know_of_other_tensors(own: str) -> None:
    (found,) = problems(own, *RANDOM, *SAMPLED, "selector._target_=own_private.Favourites")
    assert "Favourites is not the uniform draw" in found
    preset = [own, "privacy._target_=own_private.OwnNoise"]
    assert plan(*preset).workers
    (found,) = problems(*preset, "algorithm=scaffold")
    assert "Scaffold sends tensors besides the weights, and only roles.privacy.dp.DifferentialPrivacy is known" in found
