"""What the shipped classifiers log."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from flame_run import torchvision_guard
from flame_run.models import Classifier

torchvision_guard.install()

from lightning.pytorch import Trainer  # noqa: E402
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint  # noqa: E402
from lightning.pytorch.loggers import CSVLogger  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*LeafSpec.* is deprecated:FutureWarning",
    "ignore:The number of training batches",
)

QUIET = {"enable_progress_bar": False, "enable_model_summary": False}


def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier(nn.Linear(4, 3), learning_rate=0.1)


def loader() -> DataLoader[tuple[Tensor, ...]]:
    torch.manual_seed(1)
    return DataLoader(TensorDataset(torch.rand(25, 4), torch.randint(0, 3, (25,))), 10)


def fit(**options: Any) -> Trainer:
    trainer = Trainer(accelerator="cpu", **{"max_epochs": 2, "logger": False, "enable_checkpointing": False, **QUIET, **options})
    trainer.fit(classifier(), loader())
    return trainer


def test_the_loss_of_the_last_epoch_is_seen_with_and_without_a_logger(tmp_path: Any) -> None:
    logger = CSVLogger(tmp_path)
    without, within = fit(), fit(logger=logger)
    assert set(without.callback_metrics) == set(within.callback_metrics) == {"train_loss"}
    assert torch.equal(without.callback_metrics["train_loss"], within.callback_metrics["train_loss"])
    assert torch.equal(without.logged_metrics["train_loss"], within.logged_metrics["train_loss"])
    rows = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()
    assert float(rows[-1].split(",")[rows[0].split(",").index("train_loss")]) == pytest.approx(
        float(within.callback_metrics["train_loss"])
    )


def test_callbacks_can_watch_the_loss_without_a_logger(tmp_path: Any) -> None:
    stopping = EarlyStopping("train_loss", stopping_threshold=1e9, check_on_train_epoch_end=True)
    checkpoint = ModelCheckpoint(tmp_path, "{train_loss:.3f}", monitor="train_loss", save_on_train_epoch_end=True)
    trainer = fit(max_epochs=5, callbacks=[stopping, checkpoint], enable_checkpointing=True)
    assert trainer.current_epoch == 1
    assert checkpoint.best_model_score is not None
    assert torch.equal(checkpoint.best_model_score, trainer.callback_metrics["train_loss"])


def test_a_subclass_logs_what_it_likes_beside_it() -> None:
    class Verbose(Classifier):
        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            self.log("step_loss", loss, on_step=True, on_epoch=True)
            return loss

    trainer = Trainer(accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, **QUIET)  # type: ignore[arg-type]
    trainer.fit(Verbose(nn.Linear(4, 3), learning_rate=0.1), loader())
    assert set(trainer.callback_metrics) == {"train_loss", "step_loss", "step_loss_step", "step_loss_epoch"}
    assert float(trainer.callback_metrics["step_loss_epoch"]) == pytest.approx(float(trainer.callback_metrics["train_loss"]))
