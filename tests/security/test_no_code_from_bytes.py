"""No format that carries code is read from bytes that somebody else may have written: read off the source."""

import importlib
import shutil
from pathlib import Path

import pytest

import flame_run
from tests.security.import_walk import PACKAGES, Module, Walk, runs_bytes, runs_text, unsafe_loads

ROOT = Path(flame_run.__file__).parent.parent
AT_THE_NETWORK = ("transports", "flame_run/control", "flame_run/security/tls.py", "roles/codecs")
"""Whose code handles what others send, or sends what others handle."""
TO_OUR_OWN_CHILD = {"flame_run/launch/job.py", "flame_run/launch/compose.py"}
"""Speaks with the process that forked it, over a pipe that nobody else holds; reads what came over that pipe."""
OWN_PROCESSES = ("joblib", "multiprocessing")
"""Hydra's launcher plugins, and the pipe to the process that logs to MLflow: it carries bytes, and both ends are the runner's."""
ONLY_LOADS_IT = {"flame_run/launch/preload.py"}
"""Imports gRPC so that forked workers have it."""


@pytest.fixture(scope="module")
def walk() -> Walk:
    return Walk(ROOT)


def offences(walk: Walk) -> dict[str, set[str]]:
    """File -> what in it could run code from bytes of the network."""
    near = walk.reachable(walk.below(*AT_THE_NETWORK))
    found = {module.name: runs_bytes(module) for module in near}
    for module in walk.modules.values():
        found[module.name] = found.get(module.name, set()) | unsafe_loads(module) | runs_text(module)
    return {name: each for name, each in found.items() if each}


def test_what_handles_bytes_of_the_network_reaches_nothing_that_runs_code_from_bytes(walk: Walk) -> None:
    assert offences(walk) == {}


def test_the_walk_begins_at_every_file_that_touches_the_network(walk: Walk) -> None:
    near = {module.name for module in walk.reachable(walk.below(*AT_THE_NETWORK))}
    for folder in ("transports", "flame_run/control"):
        found = {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*.py")}
        assert len(found) > 10
        assert found <= near
    # Whoever speaks gRPC or HTTP elsewhere has to be added above.
    speaking = {
        module.name
        for module in walk.modules.values()
        if any(name.partition(".")[0] in {"grpc", "socketserver", "http", "asyncio", "ssl"} for name in module.imports)
    }
    assert speaking - near <= ONLY_LOADS_IT


def test_elsewhere_only_the_pipe_to_our_own_child_does(walk: Walk) -> None:
    found = {
        module.name for module in walk.modules.values() if any(not name.startswith(OWN_PROCESSES) for name in runs_bytes(module))
    }
    assert found == TO_OUR_OWN_CHILD


def test_loaders_are_there_to_be_judged(walk: Walk) -> None:
    names = [name for module in walk.modules.values() for name, _ in module.calls()]
    assert names.count("torch.load") >= 3
    assert "yaml.load" in names


def test_yaml_is_read_by_a_safe_loader() -> None:
    loader = importlib.import_module("flame_run.documents.load").DocumentLoader
    assert issubclass(loader, importlib.import_module("yaml").SafeLoader)


# ---- the walk itself: a bad module is found wherever it is put


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages, to spoil."""
    folder = tmp_path_factory.mktemp("tree")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=lambda _, names: [n for n in names if not _is_source(n)])
    return folder


def _is_source(name: str) -> bool:
    return "." not in name or name.endswith(".py")


BAD = [
    "import pickle\n\ndef read(data):\n    return pickle.loads(data)",
    "import pickle as p\n\ndef read(data):\n    return p.loads(data)",
    "from pickle import loads",
    "from pickle import UnpicklingError, Unpickler",
    "def read(data):\n    import pickle\n    return pickle.Unpickler(data).load()",
    "import importlib\nreader = importlib.import_module('pickle')",
    "from importlib import import_module\nreader = import_module('dill')",
    "import cloudpickle",
    "import jsonpickle",
    "import marshal",
    "import joblib",
    "from multiprocessing.connection import Client",
    "import torch\n\ndef read(file):\n    return torch.load(file)",
    "import torch\n\ndef read(file):\n    return torch.load(file, weights_only=False)",
    "from torch import load\n\ndef read(file):\n    return load(file)",
    "import torch.serialization as ts\n\ndef read(file):\n    return ts.load(file)",
    "import torch\n\ndef read(file):\n    return torch.jit.load(file)",
    "import numpy as np\n\ndef read(file):\n    return np.load(file, allow_pickle=True)",
    "import numpy\n\ndef read(file, trust):\n    return numpy.load(file, allow_pickle=trust)",
    "from numpy import load as get\n\ndef read(file):\n    return get(file)",
    "import yaml\n\ndef read(text):\n    return yaml.load(text, Loader=yaml.Loader)",
    "import yaml\n\ndef read(text):\n    return yaml.unsafe_load(text)",
    "from yaml import full_load",
    "def read(text):\n    return eval(text)",
    "def read(text):\n    exec(text)",
    "import builtins\n\ndef read(text):\n    return builtins.eval(text)",
    "def read(name):\n    return __import__(name)",
    "import logging.config",
]


@pytest.mark.parametrize("code", BAD)
@pytest.mark.parametrize("folder", ["transports", "transports/grpc_channel", "flame_run/control", "roles/codecs"])
def test_a_module_that_runs_code_from_bytes_is_found(copied: Path, code: str, folder: str) -> None:
    bad = copied / folder / "smuggled.py"
    bad.write_text(code)
    try:
        module = Module(bad, copied)
        assert runs_bytes(module) | unsafe_loads(module) | runs_text(module)
    finally:
        bad.unlink()


@pytest.mark.parametrize(
    ("victim", "way"),
    [
        ("transports/header.py", "from flame_run import far"),
        ("transports/grpc_channel/frames.py", "import flame_run.far"),
        ("flame_run/control/wire.py", "def late():\n    from flame_run.far import read"),
        ("flame_run/control/__init__.py", "from ..far import read"),
    ],
)
def test_one_that_is_only_reached_is_found_too_by_whatever_way(copied: Path, victim: str, way: str) -> None:
    far, near = copied / "flame_run" / "far.py", copied / victim
    before = near.read_text()
    far.write_text("import pickle\n\nread = pickle.loads\n")
    near.write_text(f"{before}\n{way}\n")
    try:
        assert offences(Walk(copied)) == {"flame_run/far.py": {"pickle.loads"}}
    finally:
        near.write_text(before)
        far.unlink()


def test_what_only_names_the_errors_of_pickle_is_no_offence(copied: Path) -> None:
    fine = copied / "transports" / "fine.py"
    fine.write_text("import pickle\n\nERRORS = (pickle.UnpicklingError, OSError)\n")
    try:
        assert runs_bytes(Module(fine, copied)) == set()
    finally:
        fine.unlink()
