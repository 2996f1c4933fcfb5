import json

import pytest
import torch

import flame_run
from flame_run.errors import FlameRunError


def test_the_best_and_the_last_model_come_back_ready_for_use(folder):
    best = folder.module("Straight", None)
    loaded = flame_run.load_model(folder.path)
    assert type(loaded).__name__ == "Straight"
    assert not loaded.training
    torch.testing.assert_close(loaded.state_dict(), best.state_dict())
    last = torch.load(folder.path / "checkpoints" / "last.pt", weights_only=True)
    torch.testing.assert_close(dict(flame_run.load_model(str(folder.path), "last").state_dict()), dict(last))


def test_of_several_roots_one_is_chosen_by_its_name(folder):
    folder.module("Straight", None, "root-0")
    second = folder.module("Straight", None, "root-1")
    torch.testing.assert_close(flame_run.load_model(folder.path, root="root-1").state_dict(), second.state_dict())
    with pytest.raises(FlameRunError, match="has several roots; give one: 'root-0', 'root-1'"):
        flame_run.load_model(folder.path)
    with pytest.raises(FlameRunError, match="has no root 'root-2'; give one that it has: 'root-0', 'root-1'"):
        flame_run.load_model(folder.path, root="root-2")


def test_the_only_root_may_be_named(folder):
    folder.module("Straight", None)
    folder.end()
    assert flame_run.load_model(folder.path, root="aggregator-0") is not None
    with pytest.raises(FlameRunError, match="has no root 'trainer-0'; it has one root, 'aggregator-0'"):
        flame_run.load_model(folder.path, root="trainer-0")


def test_what_is_missing_is_named(folder, tmp_path):
    with pytest.raises(FlameRunError, match="nowhere is not a folder"):
        flame_run.load_model(tmp_path / "nowhere")
    with pytest.raises(FlameRunError, match="which = 'worst': legal are 'best', 'last'"):
        flame_run.load_model(folder.path, "worst")  # type: ignore[arg-type]
    with pytest.raises(FlameRunError, match=r"holds no models: no best.pt or last.pt in checkpoints"):
        flame_run.load_model(folder.path)
    folder.module("Straight", None)
    (folder.path / "checkpoints" / "best.pt").unlink()
    with pytest.raises(FlameRunError, match="holds no model 'best'; it has 'last'"):
        flame_run.load_model(folder.path)


def test_a_class_that_cannot_be_imported_or_does_not_fit_is_named(folder):
    folder.module("Straight", None)
    config = folder.path / "checkpoints" / "module.json"
    config.write_text(json.dumps({"module": {"_target_": "my_missing.Module"}}))
    with pytest.raises(FlameRunError, match="my_missing"):
        flame_run.load_model(folder.path)
    config.write_text(json.dumps({"module": {"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1}}))
    with pytest.raises(FlameRunError, match=r"best.pt does not fit Linear"):
        flame_run.load_model(folder.path)
    config.write_text("[]")
    with pytest.raises(FlameRunError, match="is not of the form"):
        flame_run.load_model(folder.path)
    config.unlink()
    with pytest.raises(FlameRunError, match=r"module.json does not exist"):
        flame_run.load_model(folder.path)


def test_a_checkpoint_runs_no_code(folder, tmp_path):
    folder.module("Straight", None)

    torch.save({"layer": _Harm()}, folder.path / "checkpoints" / "best.pt")
    with pytest.raises(FlameRunError, match="does not fit"):
        flame_run.load_model(folder.path)


class _Harm:
    def __reduce__(self):
        return print, ("harm",)


def test_unknown_attributes_of_the_package_are_errors():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = flame_run.nothing
