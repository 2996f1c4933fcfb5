"""A Hydra application that launches workers as the runner does: from a thread, with the launcher of the group `launcher`."""

import json
import logging
import os
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

sys.path.insert(0, str(Path(__file__).parent))


def meet(run: str, name: str) -> None:
    """Wait until the test has seen all workers of this run, or closes the meeting."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect("\0" + os.environ["FLAME_RUN_TEST_MEETING"])
        connection.sendall(json.dumps([run, name, os.getpid()]).encode())
        connection.recv(1)


def work(config: DictConfig) -> Any:
    """Meet all other workers, which needs all of them to run at the same time."""
    me = config.worker.name
    output = HydraConfig.get().runtime.output_dir
    if config.act == "exit" and me == "w-1":
        sys.exit(3)
    if config.act == "raise" and me == "w-1":
        raise ValueError("no luck")
    if config.act == "meet":
        meet(str(Path(output).parent), me)
    return {
        "name": me,
        "pid": os.getpid(),
        "rate": config.rate,
        "output": output,
        "rendezvous": config.worker.rendezvous,
        "cwd": str(Path.cwd()),
        "environment": {key: os.environ.get(key) for key in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "PYTHONPATH")},
        "here": str(Path(__file__).parent) in sys.path,
        "arguments": sys.argv[1:],
    }


def main(config: DictConfig) -> Any:
    from flame_run.launch.sizing import make_launcher
    from flame_run.launch.workers import launch_workers

    hydra_config = HydraConfig.get()
    output = Path(hydra_config.runtime.output_dir)
    rendezvous = output / "where, = they ${meet}'s"
    launcher = make_launcher(config.launcher, config.workers)
    loader = GlobalHydra.instance().config_loader()
    results: list[Any] = []

    def launch() -> None:
        results.extend(
            launch_workers(
                launcher,
                config_loader=loader,
                config_name=hydra_config.job.config_name,
                overrides=list(hydra_config.overrides.task),
                hydra_overrides=list(hydra_config.overrides.hydra),
                sweep_dir=output / "workers",
                names=[f"w-{i}" for i in range(config.workers)],
                rendezvous=rendezvous,
                task_function=work,
                nodes=("worker", "workers", "rate", "act"),
            )
        )

    thread = threading.Thread(target=launch)
    thread.start()
    thread.join()
    logging.getLogger("nest").info("the parent still logs")
    assert HydraConfig.get().runtime.output_dir == str(output)
    summary = [
        {"status": each.status.name, "value": each._return_value if each.status.name == "COMPLETED" else str(each._return_value)}
        for each in results
    ]
    (output / "results.json").write_text(json.dumps(summary))
    return summary


if __name__ == "__main__":
    hydra.main(version_base="1.3", config_path="conf", config_name="config")(main)()
