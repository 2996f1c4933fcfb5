from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from roles.follow import Assigned, Assignment, Await, Follow, Over, Take, Turn
from roles.presence import Stranded
from transports.base import Offer, Stream
from transports.message import Header, Message

PARENTS, COORDINATOR = ("m-0", "m-1"), ("c-0",)
PATIENCE, COORDINATOR_PATIENCE = 10.0, 20.0


class Model(Offer):
    """An offer that is only looked at."""

    def __init__(self, round: int, sender: str = "m-0") -> None:
        self.header = Header(kind="weights", round=round, sender=sender)

    def prefetch(self) -> None:
        """Nothing to transfer."""

    def fetch(self, timeout: float | None = None) -> Message:
        raise AssertionError("nobody takes it")

    def stream(self) -> Stream:
        raise AssertionError("nobody takes it")

    def accept(self) -> None:
        """Nobody waits for it."""

    def refuse(self, reason: str) -> None:
        """Nobody waits for it."""


def follow(*, coordinated: bool = False, chosen_parent: bool = True, parents: Sequence[str] = PARENTS) -> Follow:
    """Everybody is there."""
    coordinators = COORDINATOR if coordinated else ()
    following = Follow(parents, coordinators, chosen_parent=chosen_parent, timeouts=(PATIENCE, COORDINATOR_PATIENCE), now=0.0)
    for parent in parents:
        following.joined(parent, coordinator=False)
    for end in coordinators:
        following.joined(end, coordinator=True)
    return following


def leave(following: Follow, end: str, now: float, *, final: bool = False) -> None:
    following.left(end, "broken pipe", final=final, coordinator=end in COORDINATOR, now=now)


def test_without_a_coordinator_the_oldest_model_is_taken_and_a_newer_one_of_the_same_parent_replaces_it() -> None:
    following = follow()
    first, second, third = Model(1), Model(1, "m-1"), Model(2)
    assert following.offered("m-0", first) is None
    assert following.offered("m-1", second) is None
    assert following.offered("m-0", third) is first
    assert following.next(0.0, model=True) == Take("m-1", second)
    assert following.next(0.0, model=True) == Take("m-0", third)
    assert following.next(0.0, model=True) == Await(None)


def test_a_parent_that_is_away_is_waited_for_and_one_that_is_gone_is_not() -> None:
    following = follow(parents=("m-0",))
    leave(following, "m-0", 5.0)
    assert following.next(6.0, model=True) == Await(15.0)
    following.joined("m-0", coordinator=False)
    assert following.next(50.0, model=True) == Await(None)
    leave(following, "m-0", 60.0)
    assert following.next(70.0, model=True) == Stranded("m-0", "broken pipe; not back within 10 s")
    leave(following, "m-0", 71.0, final=True)
    assert following.next(71.0, model=True) == Stranded("m-0", "broken pipe")


def test_a_model_is_lost_with_the_connection_that_it_came_on() -> None:
    following = follow()
    following.offered("m-0", Model(1))
    leave(following, "m-0", 1.0)
    assert following.next(1.0, model=True) == Await(None)


def test_the_end_comes_before_everything_else_also_while_a_parent_is_away() -> None:
    for coordinated in (False, True):
        following = follow(coordinated=coordinated)
        following.offered("m-0", Model(1))
        for parent in PARENTS:
            leave(following, parent, 1.0)
        following.end()
        assert following.next(100.0, model=True) == following.next(100.0, model=False) == Over()


def test_a_trainer_takes_the_model_of_its_round_from_the_parent_that_it_is_given() -> None:
    following = follow(coordinated=True)
    model = Model(1, "m-1")
    following.offered("m-1", model)
    assert following.next(0.0, model=False) == Await(None)
    following.assigned(Assignment(1, ("m-1",)))
    assert following.next(0.0, model=False) == Assigned(Assignment(1, ("m-1",)))
    assert following.next(0.0, model=True) == Take("m-1", model)
    assert following.next(0.0, model=False) == Await(None)


def test_a_model_from_another_parent_is_turned_away_so_that_nobody_waits_for_its_update() -> None:
    following = follow(coordinated=True)
    model = Model(1)
    following.offered("m-0", model)
    following.assigned(Assignment(1, ("m-1",)))
    turned = following.next(0.0, model=False)
    assert turned == Turn("m-0", model, "the coordinator has given it to m-1 in round 1")
    assert following.next(0.0, model=False) == Assigned(Assignment(1, ("m-1",)))


def test_models_of_rounds_before_are_turned_away_and_of_rounds_ahead_kept() -> None:
    following = follow(coordinated=True)
    old, ahead = Model(1), Model(3, "m-1")
    following.offered("m-0", old)
    following.offered("m-1", ahead)
    following.assigned(Assignment(2, ("m-0",)))
    assert following.next(0.0, model=False) == Turn("m-0", old, "round 1 is over here")
    assert following.next(0.0, model=False) == Assigned(Assignment(2, ("m-0",)))
    assert following.next(0.0, model=True) == Await(None)
    following.assigned(Assignment(3, ("m-1",)))
    assert following.next(0.0, model=True) == Assigned(Assignment(3, ("m-1",)))
    assert following.next(0.0, model=True) == Take("m-1", ahead)


def test_a_new_word_of_the_coordinator_ends_the_wait_for_a_model() -> None:
    following = follow(coordinated=True)
    following.assigned(Assignment(1, ("m-0",)))
    assert isinstance(following.next(0.0, model=False), Assigned)
    assert following.next(0.0, model=True) == Await(None)
    following.assigned(Assignment(1, ("m-1",)))
    assert following.next(0.0, model=True) == Assigned(Assignment(1, ("m-1",)))


def test_the_same_word_once_more_changes_nothing_but_the_model_of_the_round_is_taken_again() -> None:
    following = follow(coordinated=True)
    for model in (Model(1), Model(1)):
        following.assigned(Assignment(1, ("m-0",)))
        following.offered("m-0", model)
        assert isinstance(following.next(0.0, model=False), Assigned)
        assert following.next(0.0, model=True) == Take("m-0", model)
        following.assigned(Assignment(1, ("m-0",)))
        assert following.next(0.0, model=False) == Await(None)


def test_who_sits_a_round_out_waits_on_and_turns_its_models_away() -> None:
    following = follow(coordinated=True, chosen_parent=False)
    following.assigned(Assignment(1, ()))
    assert following.next(0.0, model=False) == Await(None)
    model = Model(1)
    following.offered("m-0", model)
    turned = following.next(0.0, model=False)
    assert turned == Turn("m-0", model, "the coordinator has given it nothing to do in round 1")
    following.assigned(Assignment(2, ("t-0",)))
    following.offered("m-0", Model(2))
    assert following.next(0.0, model=False) == Assigned(Assignment(2, ("t-0",)))
    assert isinstance(following.next(0.0, model=True), Take)


def test_with_a_coordinator_lost_parents_are_its_affair() -> None:
    following = follow(coordinated=True)
    following.assigned(Assignment(1, ("m-0",)))
    following.next(0.0, model=False)
    for parent in PARENTS:
        leave(following, parent, 1.0, final=True)
    assert following.next(1000.0, model=True) == Await(None)
    leave(following, "c-0", 1000.0)
    assert following.next(1001.0, model=True) == Await(1020.0)
    assert following.next(1020.0, model=True) == Stranded("c-0", "broken pipe; not back within 20 s")


happenings = st.lists(
    st.tuples(st.sampled_from(["model", "assign", "left", "gone", "joined", "later"]), st.integers(0, 2), st.integers(1, 4)),
    max_size=40,
)


@given(happenings=happenings, coordinated=st.booleans(), chosen_parent=st.booleans())
def test_whatever_happens_a_model_is_taken_once_and_only_where_it_fits(
    happenings: list[tuple[str, int, int]], coordinated: bool, chosen_parent: bool
) -> None:
    following = follow(coordinated=coordinated, chosen_parent=chosen_parent)
    everyone, now, waiting = [*PARENTS, *COORDINATOR], 0.0, dict[str, Offer]()
    for what, index, number in happenings:
        end = everyone[index]
        if what == "model" and end in PARENTS:
            waiting[end] = Model(number, end)
            following.offered(end, waiting[end])
        elif what == "assign":
            following.assigned(Assignment(number, (PARENTS[index % 2],) if index < 2 else ()))
        elif what in ("left", "gone"):
            leave(following, end, now, final=what == "gone")
            waiting.pop(end, None)
        elif what == "joined":
            following.joined(end, coordinator=end in COORDINATOR)
        else:
            now += number
        for _ in range(20):
            step = following.next(now, model=True)
            if isinstance(step, Take | Turn):
                assert waiting.pop(step.end) is step.offer
            if isinstance(step, Take) and coordinated:
                assert following.assignment is not None
                assert step.offer.header.round == following.assignment.round
                assert step.end in following.assignment.ends or not chosen_parent
            if isinstance(step, Await | Stranded):
                break
        assert isinstance(step, Await | Stranded), "following ends in a wait"
        assert not isinstance(step, Await) or step.until is None or step.until > now
