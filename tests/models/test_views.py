"""The model and the data of clients of several kinds."""

from typing import Any

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from flame_run import torchvision_guard
from flame_run.config.folder import conf_dir
from flame_run.data import ArrayDataModule, ViewDataModule, locate
from flame_run.models import MnistViews

torchvision_guard.install()

from lightning.pytorch import Trainer  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec.* is deprecated:FutureWarning")

MNIST = locate("builtin://mnist-mini")


def model(*kinds: str) -> MnistViews:
    torch.manual_seed(0)
    return MnistViews(kinds, learning_rate=0.05)


def batch(*kinds: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = next(iter(ViewDataModule(MNIST, kinds, test_batch_size=7).test_dataloader()))
    return found


@pytest.mark.parametrize("kinds", [("image",), ("table",), ("image", "table")])
def test_a_client_sees_its_kinds_of_a_picture_and_the_label(kinds: tuple[str, ...]) -> None:
    pictures = ArrayDataModule(MNIST).dataset("test")
    seen = batch(*kinds)
    assert seen.keys() == {*kinds, "label"}
    for index in range(7):
        picture, label = pictures[index]
        assert int(seen["label"][index]) == int(label)
        if "image" in kinds:
            assert torch.equal(seen["image"][index], picture)
        if "table" in kinds:
            means = [float(picture[0, :, column].mean()) for column in range(28)]
            means += [float(picture[0, row].mean()) for row in range(28)]
            torch.testing.assert_close(seen["table"][index], 4 * torch.tensor(means))


def test_entries_are_those_of_the_kinds_and_of_the_head() -> None:
    assert {name.partition(".")[0] for name in model("table").state_dict()} == {"table", "head"}
    assert {name.partition(".")[0] for name in model("image", "table").state_dict()} == {"image", "table", "head"}


def test_the_losses_of_samples_are_those_of_the_training_step_one_by_one() -> None:
    module, seen = model("image"), batch("image")
    losses = module.sample_losses(seen)
    assert losses.shape == (7,)
    torch.testing.assert_close(losses.mean(), module.training_step(seen, 0))


def test_a_test_tells_each_kind_and_their_means() -> None:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    module = model("image", "table")
    (found,) = Trainer(**quiet, limit_test_batches=2).test(module, ViewDataModule(MNIST, ["image", "table"]), verbose=False)
    assert found.keys() == {"accuracy_image", "accuracy_table", "accuracy", "loss"}
    assert found["accuracy"] == pytest.approx((found["accuracy_image"] + found["accuracy_table"]) / 2)


def test_the_configuration_makes_the_model_of_all_kinds_and_their_data() -> None:
    text = (conf_dir() / "model" / "views.yaml").read_text(encoding="utf-8").replace("${worker:dataset.path}", str(MNIST))
    job = {"hyperparameters": {"learningRate": 0.25, "batchSize": 7}}
    config: Any = OmegaConf.create({"model": OmegaConf.create(text), "job": job})
    module, data = (hydra.utils.instantiate(config.model[key]) for key in ("module", "data"))
    seen = next(iter(data.train_dataloader()))
    assert all(module(seen, kind).shape == (7, 10) for kind in ("image", "table"))
    assert module.configure_optimizers().param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize("kinds", [(), ("picture",)])
def test_a_kind_that_there_is_not_is_refused_with_those_that_there_are(kinds: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="kinds must be some of image, table, not"):
        model(*kinds)
