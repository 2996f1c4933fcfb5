from roles.presence import Away, Presence, Stranded


def test_an_end_is_away_until_it_has_joined() -> None:
    presence = Presence(("a", "b"), 5.0)
    presence.joined("a")
    assert presence.present == {"a"}
    assert presence.away == {"b": Away("has not joined", 5.0)}


def test_who_is_there_is_waited_for_as_long_as_it_takes() -> None:
    presence = Presence(("a", "b"), 0.0)
    presence.joined("a")
    presence.left("b", "killed", final=True, now=0.0)
    assert presence.patience(1e9, 10.0) is None


def test_who_is_away_is_waited_for_from_the_moment_it_left() -> None:
    presence = Presence(("a",), 0.0)
    presence.joined("a")
    presence.left("a", "broken pipe", final=False, now=100.0)
    presence.left("a", "still not there", final=False, now=105.0)
    assert presence.patience(109.0, 10.0) == 110.0
    assert presence.patience(110.0, 10.0) == Stranded("a", "broken pipe; not back within 10 s")


def test_of_several_the_last_one_to_leave_decides() -> None:
    presence = Presence(("a", "b"), 0.0)
    for end, now in (("a", 1.0), ("b", 3.0)):
        presence.joined(end)
        presence.left(end, "broken pipe", final=False, now=now)
    assert presence.patience(12.0, 10.0) == 13.0


def test_nobody_waits_for_who_is_gone() -> None:
    presence = Presence(("a",), 0.0)
    presence.left("a", "broken pipe", final=False, now=1.0)
    presence.left("a", "killed", final=True, now=2.0)
    presence.left("a", "broken pipe", final=False, now=3.0)
    assert presence.patience(3.0, 10.0) == Stranded("a", "killed")
    assert presence.gone == {"a": "killed"}


def test_who_was_gone_and_joins_is_there_again() -> None:
    presence = Presence(("a",), 0.0)
    presence.left("a", "killed", final=True, now=1.0)
    presence.joined("a")
    assert presence.present == {"a"}
    assert not presence.gone
    assert presence.patience(50.0, 10.0) is None
