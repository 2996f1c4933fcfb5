"""One wrong thing in funcTags or code each: it is told once, without echo."""

from collections.abc import Callable
from typing import Any

import pytest

TWO, H, G, C = ("two_tier", "default"), ("hierarchical", "default"), ("hierarchical_groups", "eu_na"), ("coordinated", "three")
Case = tuple[tuple[str, str], dict[str, Any], str, str, str]
CASES: dict[str, Case] = {
    "a misspelt function": (
        H,
        {"schema.channels[0].funcTags.trainer[1]": "uplod"},
        "schema.channels[0].funcTags.trainer[1] (channel param-channel)",
        "roles.Trainer exposes no such function",
        "did you mean 'upload'? legal: fetch, upload, coordinate",
    ),
    "a function of another class": (
        H,
        {"schema.channels[0].funcTags.trainer[+]": "coordinateWithTrainer"},
        "schema.channels[0].funcTags.trainer[2] (channel param-channel)",
        "roles.Trainer exposes no such function",
        "legal: fetch, upload, coordinate",
    ),
    "functions in a list instead of a map": (
        H,
        {"schema.channels[0].funcTags": ["fetch"]},
        "schema.channels[0].funcTags (channel param-channel)",
        "must be a map, not a list",
        "",
    ),
    "a function that is not in a list": (
        H,
        {"schema.channels[0].funcTags.trainer": "fetch"},
        "schema.channels[0].funcTags.trainer (channel param-channel)",
        "must be a list, not a text",
        "",
    ),
    "no function for a role": (
        H,
        {"schema.channels[0].funcTags.trainer": []},
        "schema.channels[0].funcTags.trainer (channel param-channel)",
        "must not be empty",
        "",
    ),
    "a function twice": (
        H,
        {"schema.channels[0].funcTags.trainer[+]": "fetch"},
        "schema.channels[0].funcTags.trainer (channel param-channel)",
        "twice: fetch",
        "",
    ),
    "functions of a role outside the pair": (
        H,
        {"schema.channels[0].funcTags.top-aggregator": ["distribute"]},
        "schema.channels[0].funcTags.top-aggregator (channel param-channel)",
        "not one of the pair",
        "legal: trainer, middle-aggregator",
    ),
    "functions under a misspelt role": (
        H,
        {"schema.channels[0].funcTags.trainer": "DELETE", "schema.channels[0].funcTags.trainr": ["fetch", "upload"]},
        "schema.channels[0].funcTags.trainr (channel param-channel)",
        "not one of the pair",
        "did you mean 'trainer'?",
    ),
    "no functions for one of the pair": (
        H,
        {"schema.channels[0].funcTags.trainer": "DELETE"},
        "schema.channels[0].funcTags (channel param-channel)",
        "lacks 'trainer'",
        "",
    ),
    "fetch without upload": (
        H,
        {"schema.channels[0].funcTags.trainer": ["fetch"]},
        "schema.channels[0].funcTags.trainer (channel param-channel)",
        "'fetch' without 'upload'",
        "fetch, upload",
    ),
    "aggregate without distribute": (
        H,
        {"schema.channels[1].funcTags.top-aggregator": ["aggregate"]},
        "schema.channels[1].funcTags.top-aggregator (channel global-channel)",
        "'aggregate' without 'distribute'",
        "distribute, aggregate",
    ),
    "coordinate without an answer": (
        H,
        {"schema.channels[1].funcTags.middle-aggregator[+]": "coordinate"},
        "schema.channels[1].funcTags.middle-aggregator (channel global-channel)",
        "no function of the other side (top-aggregator) answers 'coordinate'",
        "coordinateWithTrainer",
    ),
    "a coordinator that binds two functions of three": (
        C,
        {
            "schema.channels[1]": "DELETE",
            "schema.roles[2].groupAssociation[0].middle-agg-coord-channel": "DELETE",
            "schema.roles[0].groupAssociation[0].middle-agg-coord-channel": "DELETE",
        },
        "schema.roles[0] (role coordinator)",
        "coordinateWithMidAgg is bound to no channel",
        "coordinateWithTopAgg",
    ),
    "functions for middle aggregators towards trainers": (
        C,
        {
            "schema.channels[1].funcTags.coordinator": ["coordinateWithMidAgg", "coordinateWithTrainer"],
            "schema.channels[2].funcTags.coordinator": ["coordinateWithTrainer"],
        },
        "schema.channels[2].funcTags.coordinator[0] (channel trainer-coord-channel)",
        "can serve 'coordinateWithTrainer' on 1 channel",
        "",
    ),
    "code for an unknown role": (
        H,
        {"job.code": {"aggregator": "roles.Aggregator"}},
        "job.code.aggregator",
        "no such role",
        "did you mean 'top-aggregator'?",
    ),
    "settings for an unknown role": (
        H,
        {"job.roles": {"trainers": {}}},
        "job.roles.trainers",
        "no such role",
        "did you mean 'trainer'?",
    ),
    "a role without code": (H, {"job.code": {"trainer": None}}, "job.code.trainer (role trainer)", "has no code", "roles.Trainer"),
    "code that is no import path": (H, {"job.code": {"trainer": "trainer"}}, "job.code.trainer", "form", "roles.Trainer"),
    "a misspelt built-in class": (
        H,
        {"job.code": {"trainer": "roles.Traner"}},
        "job.code.trainer (role trainer)",
        "no such built-in class",
        "did you mean 'roles.Trainer'?",
    ),
    "a module that is not there": (
        H,
        {"job.code": {"trainer": "no_such_module.Trainer"}},
        "job.code.trainer (role trainer)",
        "No module named 'no_such_module'",
        "",
    ),
    "a class that is not there": (
        H,
        {"job.code": {"trainer": "fractions.Fracton"}},
        "job.code.trainer (role trainer)",
        "module 'fractions' has no class 'Fracton'",
        "did you mean 'Fraction'?",
    ),
    "a class without functions": (
        H,
        {"job.code": {"trainer": "fractions.Fraction"}},
        "job.code.trainer (role trainer)",
        "no get_func_tags()",
        "a class whose class method",
    ),
    "something that is no class": (
        H,
        {"job.code": {"trainer": "os.path.join"}},
        "job.code.trainer (role trainer)",
        "not a class",
        "get_func_tags()",
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_one_wrong_thing_is_told_once_with_place_reason_and_legal_values(told_once: Callable[..., None], case: Case):
    told_once(*case)
