"""Builds what a role works with from the worker's part of the plan: endpoint, channels, context."""

import importlib
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from lightning.pytorch import LightningDataModule, LightningModule

from flame_run.config.part import fill
from flame_run.control.session import Session
from flame_run.data.cut import cut_data_module
from flame_run.data.urls import locate
from flame_run.run.checks import import_from
from flame_run.run.settings import settings_of
from flame_run.run.workplace import Workplace
from flame_run.topology.plan import AT_SITE
from roles.context import Context, Peer
from roles.role import Role
from transports.base import Backend, ChannelSpec, Endpoint


class Report:
    """Sends what a role reports to the controller."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def prepared(self) -> None:
        """See `roles.context.Reporter`."""
        self._session.state("running")

    def entered(self, round: int) -> None:
        """See `roles.context.Reporter`."""
        self._session.state("running", round_=round)

    def progress(self, epoch: int, epochs: int) -> None:
        """See `roles.context.Reporter`."""
        self._session.progress(epoch, epochs)

    def metrics(self, round: int, values: Mapping[str, float]) -> None:
        """See `roles.context.Reporter`."""
        self._session.metrics(round, values)

    def result(self, values: Mapping[str, Any]) -> None:
        """See `roles.context.Reporter`."""
        self._session.result(values)


class Assembly:
    """One worker put together. The endpoint listens when the constructor returns."""

    def __init__(self, part: Mapping[str, Any], session: Session, workplace: Workplace) -> None:
        self.part = part
        self.session = session
        self.config = part["config"]
        self.aborted = threading.Event()
        self._overlap = not workplace.shared
        self._fitters = workplace.fitters
        import_from(self.config["python_path"])
        torch.set_num_threads(self.config["job"].get("threads") or 1)
        self.endpoint: Endpoint = workplace.endpoint(part, session)

    def role(self) -> Role:
        """The role of this worker."""
        path, _, name = self.part["code"].rpartition(".")
        role: type[Role] = getattr(importlib.import_module(path), name)
        return role(self._context())

    def _context(self) -> Context:
        worker, channels = self.part["worker"], self.part["channels"]
        peers = {
            end["name"]: Peer(name=end["name"], role=end["role"], groups=end["groups"], consumer=end["consumer"])
            for each in channels
            for end in each["ends"]
        }
        model = self.config["model"]
        state_folder = Path(self.part["state_folder"]) if self.part["state_folder"] else None  # in the worker's own folder
        return Context(
            name=worker["name"],
            role=worker["role"],
            index=worker["index"],
            endpoint=self.endpoint,
            channels={channel["name"]: _spec(channel, self.config["transport"]["backend"]) for channel in channels},
            tags={tag: tuple(names) for tag, names in self.part["tags"].items()},
            peers=peers,
            groups=worker["groups"],
            settings=settings_of(self.config),
            strategy=instantiate(self.config["algorithm"]),
            selector=instantiate(self.config["selector"]),
            sampler=instantiate(self.config["sampler"]),
            privacy=instantiate(self.config["privacy"]),
            population=self.part["population"],
            reporter=Report(self.session),
            folder=Path(self.part["folder"]) if self.part["folder"] else None,
            state_folder=state_folder,
            own_folder=None if state_folder is None else state_folder.parent,
            resume=self.part["resume"],
            build_module=self._build_module if model["module"] else None,
            build_data=self._build_data if model["data"] and worker["dataset"] else None,
            build_test_data=self._build_test_data if model["data"] and self.part["evaluation"] else None,
            build_trainer_options=lambda: instantiate(fill(model["trainer"], self._values(worker["dataset"]))),
            fitters=self._fitters,
            overlap=self._overlap,
            aborted=self.aborted,
        )

    def _build_module(self) -> LightningModule:
        dataset = self.part["worker"]["dataset"] or self.part["evaluation"]
        module: LightningModule = instantiate(fill(self.config["model"]["module"], self._values(dataset)))
        return module

    def _build_data(self) -> LightningDataModule:
        dataset = self.part["worker"]["dataset"]
        data: LightningDataModule = instantiate(fill(self.config["model"]["data"], self._values(dataset, located=True)))
        if dataset["partition"]:
            return cut_data_module(data, dataset["partition"], self.config["job"].get("seed", 0))
        return data

    def _build_test_data(self) -> LightningDataModule:
        values = self._values(self.part["evaluation"], located=True)
        data: LightningDataModule = instantiate(fill(self.config["model"]["data"], values))
        return data

    def _values(self, dataset: Mapping[str, Any] | None, *, located: bool = False) -> dict[str, Any]:
        """What `${worker:KEY}` stands for; `dataset.path` is there once the data was `located`."""
        worker = self.part["worker"]
        values: dict[str, Any] = {key: worker[key] for key in ("name", "index", "role", "task_id", "realm")}
        values |= {f"group.{channel}": label for channel, label in worker["groups"].items()}
        if dataset is not None:
            values |= {f"dataset.{key}": dataset[key] for key in ("name", "url", "realm")}
            values["dataset.format"] = dataset["data_format"]
            if located and not dataset["url"].startswith(AT_SITE):
                values["dataset.path"] = str(locate(dataset["url"]))
        return values


def _spec(channel: Mapping[str, Any], backend: Backend) -> ChannelSpec:
    """The channel of a part of the plan; any `backend` of the job but `auto` overrides that of the channel."""
    return ChannelSpec(
        name=channel["name"],
        group=channel["group"],
        ends=tuple(end["name"] for end in channel["ends"]),
        dials=frozenset(channel["dials"]),
        backend=channel["backend"] if backend == "auto" else backend,
    )
