"""Where worker processes begin. Importable without torch, so that launchers can pass it by name."""

import logging
import os
import sys
import traceback
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from transports.grpc_channel.forks import tolerate_forks


def work_in_process(cfg: DictConfig) -> None:
    """Be one worker in a process of its own, its output in its log; see `flame_run.run.worker.work`."""
    tolerate_forks()
    log_to(Path(HydraConfig.get().runtime.output_dir) / "worker.log")
    try:
        from flame_run.run.worker import WorkerFailed, work  # noqa: PLC0415 - imports torch, in the worker only
    except Exception:
        traceback.print_exc()
        raise
    try:
        work(cfg)
    except WorkerFailed:
        raise
    except Exception:
        traceback.print_exc()
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def log_to(path: Path) -> None:
    """Send standard output, standard error and the log of this process to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
