"""Classes that users attach to roles."""

from collections.abc import Callable
from pathlib import Path

import pytest

from flame_run.errors import Problem
from roles.tags import BUILTIN_TAGS, channels_per_tag, followers, function, marked_tags

MODULE = """
from roles.tags import function, marked_tags

class Plain:
    @function("fetch")
    def fetch(self): ...
    @function("upload")
    def upload(self): ...
    @function("report", after="upload", channels=2)
    def report(self): ...
    @classmethod
    def get_func_tags(cls): return marked_tags(cls)

class Raises(Plain):
    @classmethod
    def get_func_tags(cls): raise RuntimeError("broken")

class Text(Plain):
    @classmethod
    def get_func_tags(cls): return "fetch"

class Numbers(Plain):
    @classmethod
    def get_func_tags(cls): return [1]
"""


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "users_own_roles.py").write_text(MODULE)
    (tmp_path / "users_broken_roles.py").write_text("raise ValueError('at import')")
    monkeypatch.syspath_prepend(str(tmp_path))
    return "users_own_roles"


H = ("hierarchical", "default")
Wrong = Callable[..., list[Problem]]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("users_own_roles.Raises", "get_func_tags() raised RuntimeError: broken"),
        ("users_own_roles.Text", "get_func_tags() returned 'fetch'"),
        ("users_own_roles.Numbers", "get_func_tags() returned (1,)"),
        ("users_own_roles.Plane", "has no class 'Plane'"),
        ("users_broken_roles.Any", "cannot be imported: ValueError: at import"),
    ],
)
def test_a_broken_class_is_told_with_its_own_error(wrong: Wrong, user_module: str, name: str, reason: str):
    (problem,) = wrong(H, {"job.code": {"trainer": name}})
    assert problem.place == "job.code.trainer (role trainer)"
    assert reason in problem.reason


def test_a_class_of_the_user_brings_its_own_function(wrong: Wrong, user_module: str):
    assert not wrong(
        H, {"job.code": {"trainer": "users_own_roles.Plain"}, "schema.channels[0].funcTags.trainer": ["fetch", "upload", "report"]}
    )


def test_a_function_that_the_users_class_lacks_is_told(wrong: Wrong, user_module: str):
    edits = {
        "job.code": {"trainer": "users_own_roles.Plain"},
        "schema.channels[0].funcTags.trainer": ["fetch", "upload", "raport"],
    }
    (problem,) = wrong(H, edits)
    assert problem.legal.startswith("did you mean 'report'?")


def test_a_function_may_be_bound_as_often_as_its_mark_says(wrong: Wrong, user_module: str):
    def problems(count: int) -> list[Problem]:
        extra = [
            {"name": f"extra-{index}", "pair": ["trainer", "hub"], "funcTags": {"trainer": ["report"], "hub": ["report"]}}
            for index in range(count)
        ]
        code = {"trainer": "users_own_roles.Plain", "hub": "users_own_roles.Plain"}
        return wrong(H, {"schema.roles[+]": {"name": "hub"}, "schema.channels": [*CHANNELS, *extra], "job.code": code})

    assert problems(2) == []
    assert [problem.reason.split(", ")[0] for problem in problems(3)] == [
        "class users_own_roles.Plain can serve 'report' on 2 channels"
    ] * 2


CHANNELS = [
    {
        "name": "param-channel",
        "pair": ["trainer", "middle-aggregator"],
        "groupBy": {"type": "tag", "value": ["default/eu", "default/na"]},
        "funcTags": {"trainer": ["fetch", "upload"], "middle-aggregator": ["distribute", "aggregate"]},
    },
    {
        "name": "global-channel",
        "pair": ["middle-aggregator", "top-aggregator"],
        "funcTags": {"middle-aggregator": ["fetch", "upload"], "top-aggregator": ["distribute", "aggregate"]},
    },
]


class Base:
    @function("first")
    def one(self) -> None: ...

    @function("second", after="first")
    def two(self) -> None: ...


class Derived(Base):
    def one(self) -> None: ...

    @function("third", after="first", channels=3)
    def three(self) -> None: ...


def test_marks_are_inherited_and_need_not_be_repeated():
    assert marked_tags(Derived) == ["first", "second", "third"]
    assert channels_per_tag(Derived) == {"first": 1, "second": 1, "third": 3}
    assert followers(Derived, "first") == ["second", "third"]


@pytest.mark.parametrize(("tag", "channels"), [("", 1), ("x", 0)])
def test_a_mark_without_tag_or_channel_is_refused(tag: str, channels: int):
    with pytest.raises(ValueError, match="needs a tag"):
        function(tag, channels=channels)


def test_the_list_of_built_in_functions_is_that_of_the_design():
    assert {path: set(tags) for path, tags in BUILTIN_TAGS.items()} == {
        "roles.Trainer": {"fetch", "upload", "coordinate", "ring_allreduce"},
        "roles.Aggregator": {"distribute", "aggregate", "fetch", "upload", "coordinate"},
        "roles.Coordinator": {"coordinateWithTopAgg", "coordinateWithMidAgg", "coordinateWithLeafAgg", "coordinateWithTrainer"},
        "roles.NullTrainer": {"fetch", "upload", "coordinate", "ring_allreduce"},
    }
