import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.errors import UnexpectedMessage
from roles.presence import Stranded
from roles.ring.standing import Standing, counts_of, standing_of, together
from roles.ring.succession import Succession, in_order

counts = st.dictionaries(st.sampled_from(["samples", "tau", "loss"]), st.floats(allow_nan=False, allow_infinity=False))
standings = st.builds(
    Standing,
    round=st.integers(0, 1000),
    digest=st.text(max_size=8),
    trained=st.none() | st.text(min_size=1, max_size=8),
    counts=counts.map(lambda found: {"weight": 2.5, **found}),
    fault=st.text(max_size=5),
    waits=st.booleans(),
    attempt=st.integers(0, 1000),
)


@given(standings)
def test_a_standing_survives_its_way(standing: Standing) -> None:
    assert standing_of("trainer-1", standing.scalars()) == standing


@pytest.mark.parametrize(
    "spoilt",
    [
        {"round": "x"},
        {"counts": "[1]"},
        {"counts": '{"weight": NaN}'},
        {"counts": '{"weight": true}'},
        {"counts": "{"},
        {"counts": '{"weight": 0}'},
        {"counts": '{"weight": -1}'},
    ],
)
def test_a_standing_that_cannot_be_is_an_error_that_names_its_member(spoilt: dict[str, str]) -> None:
    said = Standing(trained="1-a", counts={"weight": 1.0}).scalars()
    with pytest.raises(UnexpectedMessage, match="trainer-1"):
        standing_of("trainer-1", {**said, **spoilt})


def test_a_standing_without_a_value_is_an_error() -> None:
    with pytest.raises(UnexpectedMessage, match="digest"):
        standing_of("trainer-1", {name: value for name, value in Standing().scalars().items() if name != "digest"})


def test_counts_are_added_up_in_order_and_the_members_counted() -> None:
    found = together([{"weight": 0.1, "samples": 3, "tau": 1.0}, {"weight": 0.2, "samples": 4, "updates": 5, "tau": 2.0}])
    assert found == {"weight": 0.1 + 0.2, "samples": 7, "tau": 3.0, "updates": 6, "count": 2}
    assert counts_of('{"weight": 0.1}') == {"weight": 0.1}


def test_the_order_is_that_of_the_plan_beyond_nine() -> None:
    assert in_order(["trainer-10", "trainer-2", "trainer-0"]) == ("trainer-0", "trainer-2", "trainer-10")


def test_the_first_member_leads_until_it_is_gone_for_good() -> None:
    succession = Succession("trainer-1", ["trainer-0", "trainer-2"], now=0.0)
    assert succession.leader == "trainer-0"
    assert succession.patience(5.0, 10.0) == 10.0
    assert succession.patience(10.0, 10.0) == Stranded("trainer-0", "has not joined; not back within 10 s")
    succession.joined("trainer-0")
    assert succession.patience(50.0, 10.0) is None
    assert not succession.left("trainer-0", "broke", final=False, now=50.0)
    assert succession.patience(55.0, 10.0) == 60.0
    assert succession.left("trainer-0", "killed", final=True, now=56.0)
    assert succession.leads
    assert not succession.left("trainer-2", "killed", final=True, now=57.0)


def test_a_leader_that_is_back_after_all_leads_again() -> None:
    succession = Succession("trainer-1", ["trainer-0"], now=0.0)
    succession.left("trainer-0", "killed", final=True, now=0.0)
    assert succession.leads
    succession.joined("trainer-0")
    assert not succession.leads
