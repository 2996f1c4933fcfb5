"""The shipped documents, and a way to make them wrong."""

import copy
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from flame_run.errors import Problem
from flame_run.topology.build import plan_or_problems

CONF = Path(__file__).parents[2] / "conf"
DELETE = "DELETE"
"""As a value of an edit: take the key or entry away."""
Documents = dict[str, Any]
Edits = Mapping[str, Any]


def load(path: str) -> Any:
    return yaml.safe_load((CONF / f"{path}.yaml").read_text(encoding="utf-8"))


def shipped(schema: str, dataset: str) -> Documents:
    return {"schema": load(f"schema/{schema}"), "dataset": load(f"dataset/{dataset}"), "job": load("job/default")}


def edit(documents: Documents, edits: Edits) -> Documents:
    """Set `schema.channels[1].pair[0]` and the like; `[+]` appends."""
    documents = copy.deepcopy(documents)
    for path, value in edits.items():
        steps = re.findall(r"\[(\d+|\+)\]|([^.\[\]]+)", path)
        node: Any = documents
        *way, (index, key) = steps
        for number, name in way:
            node = node[int(number)] if number else node.setdefault(name, {})
        if index == "+":
            node.append(value)
        elif value is DELETE:
            del node[int(index) if index else key]
        else:
            node[int(index) if index else key] = value
    return documents


def problems_in(documents: Documents) -> list[Problem]:
    plan, problems = plan_or_problems(documents["schema"], documents["dataset"], documents["job"])
    assert (plan is None) == bool(problems)
    return problems


@pytest.fixture
def documents_of() -> Callable[[str, str], Documents]:
    return shipped


@pytest.fixture
def edited() -> Callable[[Documents, Edits], Documents]:
    return edit


@pytest.fixture
def wrong() -> Callable[..., list[Problem]]:
    """The problems of shipped documents after some edits."""

    def problems(base: tuple[str, str], edits: Edits) -> list[Problem]:
        return problems_in(edit(shipped(*base), edits))

    return problems


@pytest.fixture
def told_once(wrong: Callable[..., list[Problem]]) -> Callable[..., None]:
    """Asserts that some edits make one problem, at its place, with its reason and what is legal, and no echo."""

    def check(base: tuple[str, str], edits: Edits, place: str, reason: str, legal: str = "") -> None:
        problems = wrong(base, edits)
        assert [problem.place for problem in problems] == [place], "\n".join(map(str, problems))
        assert reason in problems[0].reason
        assert legal in problems[0].legal

    return check
