"""Models of all kinds, logged into a real store and loaded back."""

from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch

from flame_run import torchvision_guard
from flame_run.models_io import model_files
from flame_run.track.runs import Runs
from flame_run.track.state import TrackState
from flame_run.track.store import open_store

torchvision_guard.install()


def log(settings: Any) -> tuple[TrackState, str | None, Any]:
    from flame_run.track.models import Models

    state = TrackState.begin(settings)
    store = open_store(settings)
    Runs(store, state).open()
    models = Models(state)
    return state, models.send(store), store.client


def test_a_module_that_can_be_traced_is_a_graph_that_needs_no_code(folder, settings):
    folder.module("Straight", torch.randn(2, 3))
    state, warning, _ = log(settings())
    assert warning is None
    folder.modules.joinpath("my_modules.py").unlink()
    loaded = mlflow.pyfunc.load_model(state.models["best"])
    assert loaded.predict(torch.zeros(4, 3).numpy()).shape == (4, 2)
    requirements = mlflow.pyfunc.get_model_dependencies(state.models["best"])
    assert f"torch=={torch.__version__.split('+')[0]}" in Path(requirements).read_text()


def test_a_module_that_cannot_be_traced_is_pickled_with_one_warning(folder, settings, monkeypatch):
    example = torch.randn(2, 3)
    best = folder.module("Branching", example)
    state, warning, client = log(settings())
    assert warning is not None
    assert warning.startswith("the models were pickled, since torch.export cannot trace Branching: ")
    assert "\n" not in warning
    assert set(state.models) == {"best", "last"}
    monkeypatch.syspath_prepend(str(folder.modules))
    torch.testing.assert_close(mlflow.pytorch.load_model(state.models["best"])(example), best(example))
    assert mlflow.models.get_model_info(state.models["best"]).signature.inputs.inputs[0].shape == (-1, 3)
    logged = client.search_logged_models([state.experiment_id])
    assert {model.status for model in logged} == {"READY"}


def test_a_module_without_forward_is_logged_without_a_signature(folder, settings, monkeypatch):
    folder.module("Straight", torch.randn(2, 3))
    content = folder.path / "checkpoints" / "module.json"
    content.write_text(content.read_text().replace("Straight", "Mute"))
    state, warning, _ = log(settings())
    assert warning is not None
    assert "Mute.forward does not take a test input" in warning
    monkeypatch.syspath_prepend(str(folder.modules))
    assert mlflow.pytorch.load_model(state.models["best"]).layer.out_features == 2


def test_a_module_with_two_inputs_keeps_their_names(folder, settings):
    example = (torch.randn(2, 3), torch.randn(2, 3))
    best = folder.module("Pair", example)
    state, warning, _ = log(settings())
    assert warning is None
    info = mlflow.models.get_model_info(state.models["best"])
    assert info.signature.inputs.input_names() == ["left", "right"]
    assert info.signature.outputs.input_names() == ["sum", "difference"]
    torch.testing.assert_close(mlflow.pytorch.load_model(state.models["best"])(*example), best(*example))


def test_a_module_that_takes_a_dictionary_is_pickled(folder, settings, monkeypatch):
    example = {"x": torch.randn(2, 3)}
    best = folder.module("Named", example)
    state, warning, _ = log(settings())
    assert warning == "the models were pickled: MLflow's pt2 format takes positional tensors only"
    monkeypatch.syspath_prepend(str(folder.modules))
    torch.testing.assert_close(mlflow.pytorch.load_model(state.models["best"])(example), best(example))


def test_without_an_example_the_models_are_logged_without_a_signature(folder, settings):
    folder.module("Straight", None)
    state, warning, _ = log(settings())
    assert warning == "the models were pickled, without a signature, since the run saved no example input"
    assert mlflow.models.get_model_info(state.models["last"]).signature is None


def test_every_root_of_several_has_its_models(folder, settings):
    example = torch.randn(2, 3)
    east, west = folder.module("Straight", example, "root-0"), folder.module("Straight", example, "root.x-1")
    state, warning, client = log(settings(register="digits"))
    assert warning is None
    assert set(state.models) == {"best-root-0", "last-root-0", "best-root_x-1", "last-root_x-1"}
    assert len(model_files(folder.path)) == 4
    for name, module in (("best-root-0", east), ("best-root_x-1", west)):
        torch.testing.assert_close(mlflow.pytorch.load_model(state.models[name])(example), module(example))
    assert client.get_model_version_by_alias("digits-root-0", "last").run_id == state.run_id


def test_models_that_were_logged_are_not_logged_again(folder, settings):
    from flame_run.track.models import Models

    folder.module("Straight", torch.randn(2, 3))
    state, _, client = log(settings())
    assert Models(state).send(open_store(state.settings)) is None
    assert len(client.search_logged_models([state.experiment_id])) == 2


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.int64])
def test_examples_of_any_dtype_are_taken(folder, settings, kind):
    from flame_run.track.example import Example

    example = Example(torch.ones(2, 3, dtype=kind))
    module = torch.nn.Identity()
    assert example.signature(module).inputs.inputs[0].shape == (-1, 3)
