"""Gives workers of `launcher=local` the point `registering` (see `chaos_points`): to be imported by the fork server."""

from typing import Any

import chaos_points  # type: ignore[import-not-found]

from flame_run.run import entry

_work = entry.work_in_process


def _pointed(cfg: Any) -> None:
    chaos_points.pass_point(str(cfg.worker.name), "registering")
    _work(cfg)


# The task function comes to a worker by its name.
entry.work_in_process = _pointed
