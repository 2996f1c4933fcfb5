"""A controller that sends a site anything but a plan: the site refuses it in words, and imports nothing unapproved."""

import copy
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import hydra
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flame_run.config.folder import conf_dir
from flame_run.config.groups import register
from flame_run.errors import FlameRunError
from flame_run.join.join import _accepted
from flame_run.join.site import compose_site
from flame_run.run.checks import plan_of
from flame_run.run.folder import RunFolder
from flame_run.run.parts import Parts

Path_ = tuple[str | int, ...]
JUNK: tuple[Any, ...] = (
    None,
    0,
    -1,
    True,
    1e308,
    "",
    "x" * 5000,
    "${env:HOME}",
    "../../x",
    "os.system",
    [],
    {},
    [None],
    {"_target_": "os.system"},
)


class Silent:
    """A session that hears and says nothing."""

    def state(self, *_: object, **__: object) -> None:
        """See `Session.state`."""


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What trainer-0 of the default job is sent."""
    register()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = hydra.compose("config", ["python_path=[]", "launcher=external"])
    folder = tmp_path_factory.mktemp("site")
    parts = Parts(plan_of(cfg), cfg, RunFolder(folder / "run"), "secret of the channels")
    made: dict[str, Any] = json.loads(json.dumps(parts("trainer-0")))
    return made


def places(node: Any, path: Path_ = ()) -> Iterator[Path_]:
    """Where values stand in a plan."""
    children = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for key, value in children:
        yield (*path, key)
        yield from places(value, (*path, key))


def changed(part: Mapping[str, Any], data: st.DataObject) -> dict[str, Any]:
    """A plan with a few of its values replaced or gone."""
    spoilt: dict[str, Any] = copy.deepcopy(dict(part))
    for _ in range(data.draw(st.integers(1, 3))):
        path: list[Any] = list(data.draw(st.sampled_from(list(places(spoilt)) or [("code",)])))
        last = path.pop()
        node: Any = spoilt
        for key in path:
            node = node[key]
        if data.draw(st.booleans()):
            node[last] = copy.deepcopy(data.draw(st.sampled_from(JUNK)))
        elif last in node or isinstance(node, list):
            del node[last]
    return spoilt


def judged(part: Any) -> str:
    """What the site says of a plan; empty if it takes it."""
    session: Any = Silent()
    try:
        _accepted(part, compose_site(["dataset.path=.", "python_path=[]"]), session)
    except FlameRunError as refusal:
        return str(refusal)
    return ""


def test_the_plan_itself_is_taken(part: dict[str, Any]) -> None:
    assert judged(part) == ""


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_plan_with_anything_in_it_is_taken_or_refused_in_words(part: dict[str, Any], data: st.DataObject) -> None:
    before = set(sys.modules)
    judged(changed(part, data))
    assert not {"os.system", "smuggled"} & (set(sys.modules) - before)


@pytest.mark.parametrize("plan", [{}, {"code": 1}, {"config": None}, {"worker": [], "config": {"model": []}}])
def test_what_is_no_plan_is_refused(plan: dict[str, Any]) -> None:
    assert "not a plan that this version understands" in judged(plan)


def test_a_plan_that_nests_without_end_is_refused(part: dict[str, Any]) -> None:
    deep: Any = {}
    for _ in range(5000):
        deep = {"x": deep}
    assert "RecursionError" in judged({**part, "config": {**part["config"], "algorithm": deep}})


def test_a_site_that_says_where_its_work_goes_is_not_led_elsewhere(part: dict[str, Any], tmp_path: Path) -> None:
    for run in ("../../etc", "/etc", "x/y", "", ".."):
        assert "cannot be the name of a folder" in judged({**part, "job": {**part["job"], "run": run}})
        assert not (tmp_path / "etc").exists()
