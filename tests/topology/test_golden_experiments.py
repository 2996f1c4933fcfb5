"""Every experiment expands to exactly these workers, composed by Hydra from the shipped groups."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from flame_run.data.urls import check_url
from flame_run.topology.build import build_plan
from flame_run.topology.plan import Plan

CONF = Path(__file__).parents[2] / "conf"
PRIMARY = """
defaults: [_self_, {schema: two_tier}, {dataset: default}, {job: default}, {algorithm: fedavg}, {experiment: null}]
hydra: {searchpath: ['file://%s']}
"""
Row = tuple[str, dict[str, str], str | None, str]


@pytest.fixture(scope="module", autouse=True)
def composing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("conf")
    (folder / "config.yaml").write_text(PRIMARY % CONF)
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(folder), version_base="1.3"):
        yield


def plan_of(*overrides: str) -> Plan:
    cfg: Any = OmegaConf.to_container(compose("config", list(overrides)), resolve=True)
    return build_plan(cfg["schema"], cfg["dataset"], cfg["job"], check_url=check_url)


def rows(plan: Plan) -> list[Row]:
    return [
        (worker.name, dict(worker.groups), worker.dataset.name if worker.dataset is not None else None, worker.realm)
        for worker in plan.workers
    ]


def trainers(channel: str, *places: tuple[str, str, str]) -> list[Row]:
    return [(f"trainer-{index}", {channel: label}, name, realm) for index, (label, name, realm) in enumerate(places)]


QUARTERS = [("germany", "default/eu/germany"), ("uk", "default/eu/uk"), ("canada", "default/na/canada"), ("us", "default/na/us")]
SIXTHS = [
    ("us", "california", "us"), ("us", "texas", "us"), ("eu", "france", "europe"), ("eu", "spain", "europe"),
    ("asia", "japan", "asia"), ("asia", "korea", "asia"),
]  # fmt: skip
ALL = {"top-agg-coord-channel": "default", "middle-agg-coord-channel": "default", "trainer-coord-channel": "default"}
MIDDLE = {"middle-agg-coord-channel": "default", "param-channel": "default", "global-channel": "default"}
WITH_LEAVES = {"middle-agg-coord-channel": "default", "hier-channel": "default", "global-channel": "default"}
LEAF = {"leaf-agg-coord-channel": "default", "param-channel": "default", "hier-channel": "default"}
SIX = [
    (f"trainer-{index}", {"trainer-coord-channel": "default", "param-channel": "default"}, f"mnist-{index + 1}", "default")
    for index in range(6)
]
GOLDEN: dict[str, list[Row]] = {
    "mnist_two_tier": [
        *trainers("param-channel", *[("default", f"mnist-{name}", realm) for name, realm in QUARTERS]),
        ("aggregator-0", {"param-channel": "default"}, None, "default"),
    ],
    "mnist_hierarchical": [
        *trainers("param-channel", *[(realm.split("/")[1], f"mnist-{name}", realm) for name, realm in QUARTERS]),
        ("middle-aggregator-0", {"param-channel": "eu", "global-channel": "default"}, None, "eu"),
        ("middle-aggregator-1", {"param-channel": "na", "global-channel": "default"}, None, "na"),
        ("top-aggregator-0", {"global-channel": "default"}, None, "default"),
    ],
    "mnist_four_tier": [
        *trainers(
            "region-channel",
            ("default/eu/west", "mnist-france", "default/eu/west/france"),
            ("default/eu/west", "mnist-spain", "default/eu/west/spain"),
            ("default/eu/north", "mnist-norway", "default/eu/north/norway"),
            ("default/eu/north", "mnist-sweden", "default/eu/north/sweden"),
            ("default/na/east", "mnist-canada", "default/na/east/canada"),
            ("default/na/east", "mnist-florida", "default/na/east/florida"),
        ),
        ("leaf-aggregator-0", {"region-channel": "default/eu/west", "continent-channel": "default/eu"}, None, "default/eu/west"),
        ("leaf-aggregator-1", {"region-channel": "default/eu/north", "continent-channel": "default/eu"}, None, "default/eu/north"),
        ("leaf-aggregator-2", {"region-channel": "default/na/east", "continent-channel": "default/na"}, None, "default/na/east"),
        ("middle-aggregator-0", {"continent-channel": "default/eu", "global-channel": "default"}, None, "default/eu"),
        ("middle-aggregator-1", {"continent-channel": "default/na", "global-channel": "default"}, None, "default/na"),
        ("top-aggregator-0", {"global-channel": "default"}, None, "default"),
    ],
    "mnist_coordinated": [
        ("coordinator-0", ALL, None, "default"),
        ("top-aggregator-0", {"top-agg-coord-channel": "default", "global-channel": "default"}, None, "default"),
        ("middle-aggregator-0", MIDDLE, None, "default"),
        ("middle-aggregator-1", MIDDLE, None, "default"),
        *[
            (f"trainer-{index}", {"trainer-coord-channel": "default", "param-channel": "default"}, f"mnist-{index + 1}", "default")
            for index in range(3)
        ],
    ],
    "mnist_parallel": [
        *trainers("param-channel", *[(label, f"mnist-{name}", f"default/{place}/{name}") for label, name, place in SIXTHS]),
        *[(f"aggregator-{index}", {"param-channel": label}, None, label) for index, label in enumerate(["us", "eu", "asia"])],
    ],
    "realms": [
        *trainers(
            "param-channel", *[(f"default/{place}", f"mnist-{name}", f"default/{place}/{name}") for _, name, place in SIXTHS]
        ),
        *[
            (f"aggregator-{index}", {"param-channel": f"default/{place}"}, None, f"default/{place}")
            for index, place in enumerate(["us", "europe", "asia"])
        ],
    ],
    "realms_three_tier": [
        *trainers(
            "param-channel", *[(f"default/{place}", f"mnist-{name}", f"default/{place}/{name}") for _, name, place in SIXTHS]
        ),
        *[
            (
                f"middle-aggregator-{index}",
                {"param-channel": f"default/{place}", "global-channel": "default"},
                None,
                f"default/{place}",
            )
            for index, place in enumerate(["us", "europe", "asia"])
        ],
        ("top-aggregator-0", {"global-channel": "default"}, None, "default"),
    ],
    "coordinated_async": [
        ("coordinator-0", ALL, None, "default"),
        ("top-aggregator-0", {"top-agg-coord-channel": "default", "global-channel": "default"}, None, "default"),
        *[(f"middle-aggregator-{index}", MIDDLE, None, "default") for index in range(2)],
        *SIX,
    ],
    "coordinated_three_level": [
        ("coordinator-0", {**ALL, "leaf-agg-coord-channel": "default"}, None, "default"),
        ("top-aggregator-0", {"top-agg-coord-channel": "default", "global-channel": "default"}, None, "default"),
        *[(f"middle-aggregator-{index}", WITH_LEAVES, None, "default") for index in range(2)],
        *[(f"leaf-aggregator-{index}", LEAF, None, "default") for index in range(3)],
        *SIX,
    ],
    "distributed": trainers("ring-channel", *[("default", f"mnist-{name}", realm) for name, realm in QUARTERS]),
    "hybrid": [
        *[
            (f"trainer-{index}", {"param-channel": "default", "ring-channel": realm.rpartition("/")[0]}, f"mnist-{name}", realm)
            for index, (name, realm) in enumerate(QUARTERS)
        ],
        ("aggregator-0", {"param-channel": "default"}, None, "default"),
    ],
    "smoke": [
        *trainers("param-channel", ("default", "mnist-1", "default"), ("default", "mnist-2", "default")),
        ("aggregator-0", {"param-channel": "default"}, None, "default"),
    ],
}
GOLDEN["async_two_tier"] = GOLDEN["eager"] = GOLDEN["mnist_two_tier"]
GOLDEN["async_hierarchical"] = GOLDEN["mnist_hierarchical"]
ROOTS = {"mnist_parallel": 3, "realms": 3}


@pytest.mark.parametrize("name", GOLDEN)
def test_an_experiment_expands_to_its_workers(name: str):
    plan = plan_of(f"experiment={name}")
    assert rows(plan) == GOLDEN[name]
    assert plan.job_name == name
    assert len(plan.roots) == ROOTS.get(name, 1)


def test_every_experiment_has_a_golden_expansion_or_an_example_of_its_own():
    shipped = {path.stem for path in (CONF / "experiment").glob("*.yaml")}
    assert set(GOLDEN) <= shipped


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_experiment_starts_with_its_command_and_tells_what_it_is_about(path: Path):
    head = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# ")]
    assert head[0] == "# @package _global_" or head[2] == "# @package _global_"
    assert any(line.startswith(f"# flame-run experiment={path.stem}") for line in head)
    assert any(line.startswith("# about: ") for line in head)


def test_two_roles_of_data_consumers_meet_at_one_aggregator():
    cut = "{name: %s, url: 'builtin://mnist-mini', realm: default, partition: {strategy: iid, index: %d, of: 2}}"
    datasets = f"dataset.datasets=[{cut % ('pictures', 0)},{cut % ('tables', 1)}]"
    spec = "dataset.dataSpec=[{role: image-trainer, datasets: [pictures]}, {role: table-trainer, datasets: [tables]}]"
    plan = plan_of("schema=two_consumers", datasets, spec)
    assert rows(plan) == [
        ("image-trainer-0", {"image-channel": "default"}, "pictures", "default"),
        ("table-trainer-0", {"table-channel": "default"}, "tables", "default"),
        ("aggregator-0", {"image-channel": "default", "table-channel": "default"}, None, "default"),
    ]
    assert plan.below("aggregator-0") == {"image-trainer-0", "table-trainer-0"}


@pytest.mark.parametrize(("schema", "workers"), [("two_tier", 5), ("hierarchical", 7)])
def test_the_two_schemas_by_realm_share_the_default_datasets(schema: str, workers: int):
    assert len(plan_of(f"schema={schema}").workers) == workers


def test_the_same_configuration_gives_the_same_plan_and_another_one_other_ids():
    first, again, other = plan_of(), plan_of(), plan_of("job.hyperparameters.rounds=7")
    assert first == again
    assert first.job_id != other.job_id
    assert not {worker.task_id for worker in first.workers} & {worker.task_id for worker in other.workers}
