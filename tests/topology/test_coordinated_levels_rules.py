"""What a schema with a coordinator over three levels must be like."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from flame_run.data.urls import check_url
from flame_run.errors import InvalidConfig
from flame_run.topology.build import build_plan

CONF = Path(__file__).parents[2] / "conf"
Change = Callable[[Any], object]


def document(group: str, name: str) -> Any:
    """A shipped document, to be changed."""
    return copy.deepcopy(OmegaConf.to_container(OmegaConf.load(CONF / group / f"{name}.yaml")))


def problems(change: Change) -> list[str]:
    schema = document("schema", "coordinated_three_level")
    change(schema)
    with pytest.raises(InvalidConfig) as caught:
        build_plan(schema, document("dataset", "six"), {"name": "job"}, check_url=check_url)
    return [str(problem) for problem in caught.value.problems]


def channel(schema: Any, name: str) -> Any:
    return next(each for each in schema["channels"] if each["name"] == name)


def bind(*changes: tuple[str, str, Sequence[str]]) -> Change:
    def change(schema: Any) -> None:
        for name, role, tags in changes:
            channel(schema, name)["funcTags"][role] = list(tags)

    return change


def test_functions_of_levels_that_are_swapped_are_told() -> None:
    swapped = bind(
        ("middle-agg-coord-channel", "coordinator", ["coordinateWithLeafAgg"]),
        ("leaf-agg-coord-channel", "coordinator", ["coordinateWithMidAgg"]),
    )
    first, second, third = problems(swapped)
    assert first.startswith("schema.channels[2].funcTags.coordinator (channel leaf-agg-coord-channel) = 'coordinateWithMidAgg': ")
    assert first.endswith("'leaf-aggregator' fetches from 'middle-aggregator', and the level above it is 'top-aggregator' here")
    assert second.endswith("'middle-aggregator' fetches from 'top-aggregator', and the level above it is 'leaf-aggregator' here")
    assert third.endswith("'trainer' fetches from 'leaf-aggregator', and the level above it is 'middle-aggregator' here")


def test_a_coordinator_that_faces_no_leaf_aggregators_of_three_levels_is_told() -> None:
    def without(schema: Any) -> None:
        schema["channels"].remove(channel(schema, "leaf-agg-coord-channel"))
        for role in schema["roles"]:
            for groups in role["groupAssociation"]:
                groups.pop("leaf-agg-coord-channel", None)

    first, second = problems(without)
    assert first.endswith("'trainer' fetches from 'leaf-aggregator', and the level above it is 'middle-aggregator' here")
    assert "no coordinator says which one it fetches from" in second


def test_a_leaf_function_towards_a_role_that_aggregates_nothing_is_told() -> None:
    wrong = bind(("trainer-coord-channel", "coordinator", ["coordinateWithLeafAgg"]))
    assert any("can serve 'coordinateWithLeafAgg' on 1 channel" in problem for problem in problems(wrong))
