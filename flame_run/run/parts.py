"""Each worker's part of the plan: what it needs to know to do its job, and nothing of the others' data."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from omegaconf import DictConfig

from flame_run.config.part import role_config
from flame_run.run.carried import carry
from flame_run.run.folder import RunFolder
from flame_run.topology.plan import Channel, Plan, Worker

NODES = ("worker", "faults")
"""What a worker reads of the configuration itself, before it has its part."""


class Parts:
    """Makes the part of each worker; the configuration is resolved once per role.

    Args:
        plan: the expanded job.
        cfg: the composed configuration.
        folder: the run folder.
        token: secret of the data channels, not the controller's.

    Raises:
        InvalidConfig: an interpolation that leads nowhere, or a file that cannot be used.
    """

    def __init__(self, plan: Plan, cfg: DictConfig, folder: RunFolder, token: str) -> None:
        self._plan = plan
        self._folder = folder
        self._token = token
        self.resumed: set[str] = set()
        """Workers that took part in this job before and go on from what they have stored."""
        self._run = hashlib.sha256(str(folder.path).encode()).hexdigest()[:12]
        self.configs = {role: carry(role_config(cfg, role)) for role in plan.code}

    def __call__(self, name: str) -> Mapping[str, Any]:
        """The part of worker `name`, JSON-able."""
        plan, worker = self._plan, self._plan.worker(name)
        channels = [channel for channel in plan.channels if channel.name in worker.groups]
        tags: dict[str, list[str]] = {}
        for channel in channels:
            for tag in channel.func_tags[worker.role]:
                tags.setdefault(tag, []).append(channel.name)
        root = plan.root_of(name)
        return {
            "job": {"id": plan.job_id, "name": plan.job_name, "run": self._run},
            "worker": {**asdict(worker), "groups": dict(worker.groups)},
            "channels": [self._channel(worker, channel) for channel in channels],
            "tags": tags,
            "code": plan.code[worker.role],
            "config": self.configs[worker.role],
            "evaluation": asdict(plan.evaluation) if root is not None and plan.evaluation else None,
            "folder": None if root is None else str(self._folder.models(root if len(plan.roots) > 1 else None)),
            "state_folder": str(self._folder.state(name)),
            "resume": name in self.resumed,
            "token": self._token,
            "population": len(plan.below(name)) or len(plan.workers),
        }

    def _channel(self, worker: Worker, channel: Channel) -> dict[str, Any]:
        plan = self._plan
        ends = [plan.worker(end) for end in plan.ends(worker.name, channel.name)]
        return {
            "name": channel.name,
            "group": worker.groups[channel.name],
            "backend": channel.backend,
            "ends": [
                {"name": end.name, "role": end.role, "groups": dict(end.groups), "consumer": end.dataset is not None}
                for end in ends
            ],
            "dials": list(plan.dials(worker.name, channel.name)),
        }
