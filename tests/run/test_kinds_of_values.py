"""Values of the wrong kind for an algorithm and so on are told with their key and what is legal."""

from typing import Any, Literal

import pytest

from flame_run.run.kinds_of_values import mistyped
from tests.run.test_checks import problems


class Taker:
    def __init__(
        self,
        *,
        rate: float = 0.1,
        count: int | None = None,
        side: Literal["a", "b"] = "a",
        flag: bool = False,
        name: str = "",
        other: dict[str, int] | None = None,
        loose: Any = None,
    ) -> None: ...


class Unresolved:
    def __init__(self, rate: "NoSuchName" = 1) -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("rate", "x", "must be a number"),
        ("rate", True, "must be a number"),
        ("rate", None, "must be a number"),
        ("rate", 3, None),
        ("count", 2.5, "must be a whole number or null"),
        ("count", None, None),
        ("side", "c", "must be a or b"),
        ("side", "b", None),
        ("flag", 1, "must be true or false"),
        ("name", 7, "must be a text"),
        ("other", "anything", None),
        ("loose", object, None),
        ("more", 3, None),
    ],
)
def test_a_value_is_of_the_kind_that_its_annotation_says(key: str, value: object, reason: str | None) -> None:
    found = [(problem.place, problem.reason) for problem in mistyped(Taker, {key: value}, "group")]
    assert found == ([] if reason is None else [(f"group.{key}", reason)])


def test_annotations_that_cannot_be_read_allow_everything() -> None:
    assert list(mistyped(Unresolved, {"rate": "x"}, "group")) == []


@pytest.mark.parametrize(
    ("overrides", "place", "text"),
    [
        (["algorithm=fedprox", "algorithm.mu=x"], "algorithm.mu", "'x': must be a number"),
        (["privacy=dp", "privacy.side=moon"], "privacy.side", "must be server or client"),
        (["selector=random", "selector.k=x"], "selector.k", "must be a number"),
    ],
)
def test_the_command_line_hears_of_it(overrides: list[str], place: str, text: str) -> None:
    assert text in problems(*overrides)[place]
