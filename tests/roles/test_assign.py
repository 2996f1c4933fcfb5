import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roles.coordination.assign import assign

POLICIES = ("random", "round_robin", "balanced")
MIDDLES = ("m0", "m1", "m2")


def everybody(trainers: int, middles: int) -> dict[str, list[str]]:
    return {f"t{index}": [f"m{middle}" for middle in range(middles)] for index in range(trainers)}


candidates = st.dictionaries(
    st.sampled_from([f"t{index}" for index in range(6)]), st.lists(st.sampled_from(MIDDLES), unique=True), max_size=6
)


@given(policy=st.sampled_from(POLICIES), candidates=candidates, seed=st.integers(0, 99), round=st.integers(1, 99), data=st.data())
def test_every_trainer_with_candidates_gets_one_of_them(
    policy: str, candidates: dict[str, list[str]], seed: int, round: int, data: st.DataObject
) -> None:
    loads = {name: data.draw(st.floats(0, 100)) for name in candidates}
    mapping = assign(policy, candidates, loads=loads, seed=seed, round=round)
    assert list(mapping) == [trainer for trainer, middles in candidates.items() if middles]
    assert all(mapping[trainer] in candidates[trainer] for trainer in mapping)
    assert mapping == assign(policy, candidates, loads=loads, seed=seed, round=round)


def test_random_depends_on_seed_and_round_and_reaches_everyone() -> None:
    trainers = everybody(4, 2)
    by_round = [assign("random", trainers, loads={}, seed=1, round=round) for round in range(1, 40)]
    by_seed = [assign("random", trainers, loads={}, seed=seed, round=1) for seed in range(1, 40)]
    for mappings in (by_round, by_seed):
        met = Counter((trainer, mapping[trainer]) for mapping in mappings for trainer in mapping)
        assert len(met) == 8
        assert min(met.values()) > 5


def test_random_now_and_then_leaves_a_middle_aggregator_out() -> None:
    used = [len(set(assign("random", everybody(3, 2), loads={}, seed=0, round=round).values())) for round in range(1, 30)]
    assert set(used) == {1, 2}


@given(trainers=st.integers(1, 6), middles=st.integers(1, 4), start=st.integers(1, 20))
def test_round_robin_lets_everybody_meet_everybody(trainers: int, middles: int, start: int) -> None:
    met = defaultdict(set)
    for round in range(start, start + middles):
        mapping = assign("round_robin", everybody(trainers, middles), loads={}, seed=0, round=round)
        shares = Counter(mapping.values())
        assert max(shares.values()) - min(shares[f"m{index}"] for index in range(middles)) <= 1
        for trainer, middle in mapping.items():
            met[trainer].add(middle)
    assert all(len(middles_met) == middles for middles_met in met.values())


def makespan(mapping: Mapping[str, str], loads: Mapping[str, float]) -> float:
    carried: Counter[str] = Counter()
    for trainer, middle in mapping.items():
        carried[middle] += loads[trainer]  # type: ignore[assignment]
    return max(carried.values())


@settings(max_examples=60)
@given(loads=st.lists(st.integers(1, 50), min_size=1, max_size=6), middles=st.integers(1, 3))
def test_balanced_is_within_grahams_bound_of_the_best_assignment(loads: list[int], middles: int) -> None:
    trainers = everybody(len(loads), middles)
    load_of = {f"t{index}": float(load) for index, load in enumerate(loads)}
    best = min(
        makespan(dict(zip(trainers, choice, strict=True)), load_of)
        for choice in itertools.product(MIDDLES[:middles], repeat=len(loads))
    )
    found = makespan(assign("balanced", trainers, loads=load_of, seed=0, round=1), load_of)
    assert found <= (4 / 3 - 1 / (3 * middles)) * best + 1e-9


def test_balanced_breaks_ties_in_the_order_of_the_plan() -> None:
    mapping = assign("balanced", everybody(4, 2), loads=dict.fromkeys(everybody(4, 2), 1.0), seed=0, round=1)
    assert mapping == {"t0": "m0", "t1": "m1", "t2": "m0", "t3": "m1"}


def test_an_unknown_policy_is_named_with_the_legal_ones() -> None:
    with pytest.raises(ValueError, match="unknown policy 'fair': random, round_robin or balanced"):
        assign("fair", {"t0": ["m0"]}, loads={}, seed=0, round=1)
