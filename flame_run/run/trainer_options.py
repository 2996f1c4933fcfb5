"""Options for Lightning's Trainer: those that it has, and those that a worker can serve. No torch here."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from flame_run.documents.spelling import legal_values
from flame_run.errors import Problem

NAMES: Final = frozenset([
    "accelerator", "strategy", "devices", "num_nodes", "precision", "logger", "callbacks", "fast_dev_run",
    "max_epochs", "min_epochs", "max_steps", "min_steps", "max_time", "limit_train_batches", "limit_val_batches",
    "limit_test_batches", "limit_predict_batches", "overfit_batches", "val_check_interval", "check_val_every_n_epoch",
    "num_sanity_val_steps", "log_every_n_steps", "enable_checkpointing", "enable_progress_bar", "enable_model_summary",
    "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "deterministic", "benchmark",
    "inference_mode", "use_distributed_sampler", "profiler", "detect_anomaly", "barebones", "plugins",
    "sync_batchnorm", "reload_dataloaders_every_n_epochs", "default_root_dir", "enable_autolog_hparams",
    "model_registry",
])  # fmt: skip
"""The parameters of `lightning.pytorch.Trainer`."""
_ALONE: Final = ("auto", "single_device")
"""Strategies, by name, that train in the process where they are."""


def check_trainer(options: Mapping[str, Any], place: str) -> Iterator[Problem]:
    """What is wrong with `options`, which stand at `place`."""
    for name in options:
        if name not in NAMES and not str(name).startswith("_"):
            yield Problem(
                f"{place}.{name}", options[name], "Lightning's Trainer has no such option", legal_values(str(name), sorted(NAMES))
            )
    if "max_epochs" in options:
        reason = "how long a trainer trains in a round is the job's to say"
        yield Problem(f"{place}.max_epochs", options["max_epochs"], reason, "job.hyperparameters.epochs")
    yield from _processes(options, place)


def _processes(options: Mapping[str, Any], place: str) -> Iterator[Problem]:
    """A trainer that starts more processes would start them as copies of the worker."""
    reason = "a worker trains on one device, in one process"
    devices, nodes, strategy = options.get("devices"), options.get("num_nodes"), options.get("strategy")
    if devices is not None and not _one(devices):
        yield Problem(f"{place}.devices", devices, reason, "1, or a list of one device such as [0]")
    if nodes not in (None, 1):
        yield Problem(f"{place}.num_nodes", nodes, reason, "1")
    if isinstance(strategy, str) and strategy not in _ALONE:
        yield Problem(f"{place}.strategy", strategy, reason, ", ".join(_ALONE))


def _one(devices: object) -> bool:
    """Whether that means one device: a number of them, or a list of which ones."""
    if isinstance(devices, list):
        return len(devices) == 1 and devices[0] != -1
    if isinstance(devices, str) and "," in devices:
        return len([each for each in devices.split(",") if each.strip()]) == 1
    return not isinstance(devices, bool) and str(devices).strip() == "1"
