"""Where a worker runs: how it reaches the controller and its peers, and what it shares with the workers around it."""

import logging
import os
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from typing_extensions import override

from flame_run.control.session import Session
from transports.base import Endpoint, Gate, Limits
from transports.grpc_channel.endpoint import GrpcEndpoint
from transports.grpc_channel.loop import LoopThread

if TYPE_CHECKING:
    from roles.fitters import Fitters

log = logging.getLogger(__name__)
GRACE = 2.0
"""Seconds that a stopped worker has to unwind before its process is ended."""


class Workplace(ABC):
    """What a worker asks of its surroundings."""

    shared: bool
    """Whether other workers run in this process."""

    @property
    def fitters(self) -> "Fitters":
        """Where a worker gets a Lightning trainer that it may share with others: here one of its own."""
        from roles.fitters import Fitters  # noqa: PLC0415 - imports Lightning; what fails there is reported

        return Fitters()

    @abstractmethod
    def session(self, cfg: DictConfig) -> Session:
        """The line of worker `cfg.worker.name` to the controller, not opened yet."""

    @abstractmethod
    def endpoint(self, part: Mapping[str, Any], session: Session) -> Endpoint:
        """The endpoint of a worker with this part of the plan."""

    def attended(self, worker: str, output: Path) -> AbstractContextManager[object]:  # noqa: ARG002 - for those who share a process
        """Surrounds everything that `worker` does, whose output folder is `output`."""
        return nullcontext()

    def waiting(self) -> AbstractContextManager[object]:
        """Surrounds what a worker waits for that its endpoint and its session know nothing of."""
        return nullcontext()

    def stopping(self, worker: str) -> None:  # noqa: B027 - who runs beside the runner can only be asked
        """`worker` was told to stop. It has `GRACE` seconds where only its process can be ended."""


class OwnProcess(Workplace):
    """A process for one worker, which speaks gRPC to the controller."""

    shared = False

    @override
    def session(self, cfg: DictConfig) -> Session:
        from flame_run.control.grpc_session import GrpcSession  # noqa: PLC0415 - each workplace loads its own kind
        from flame_run.control.rendezvous import read_rendezvous  # noqa: PLC0415
        from flame_run.security.job import security_of  # noqa: PLC0415

        name = str(cfg.worker.name)
        address, token, tls = read_rendezvous(Path(cfg.worker.rendezvous))
        return GrpcSession(address, token, name, security=None if tls is None else security_of(tls, name))

    @override
    def endpoint(self, part: Mapping[str, Any], session: Session) -> Endpoint:
        return grpc_endpoint(part, session)

    @override
    def stopping(self, worker: str) -> None:
        exit_soon(worker)


def grpc_endpoint(
    part: Mapping[str, Any], session: Session, *, gate: Gate | None = None, loop: LoopThread | None = None
) -> GrpcEndpoint:
    """The endpoint of a worker that others reach over gRPC; it listens if anybody dials it."""
    config = part["config"]
    options = config["transport"]
    endpoint = GrpcEndpoint(
        part["worker"]["name"],
        token=part["token"],
        bind=f"{options['bind']}:0",
        advertise=options["advertise"],
        limits=Limits(max_message_bytes=options["max_message_bytes"], max_tensors=options["max_tensors"]),
        chunk_bytes=options["chunk_bytes"],
        join_timeout=config["faults"]["join_timeout"],
        heartbeat=config["faults"]["heartbeat"],
        checksum=options["checksum"],
        security=session.security,
        gate=gate,
        loop=loop,
    )
    if any(set(channel["dials"]) != {end["name"] for end in channel["ends"]} for channel in part["channels"]):
        endpoint.listen()
    return endpoint


def exit_soon(who: str) -> None:
    """End this process in `GRACE` seconds, unless it has ended by then."""
    last_resort = threading.Timer(GRACE, exit_now, (f"{who} did not stop within {GRACE:g} s",))
    last_resort.daemon = True
    last_resort.start()


def exit_now(why: str) -> None:
    """End this process by force, with status 1."""
    log.warning("ended by force: %s", why)
    logging.shutdown()
    sys.stdout.flush()
    os._exit(1)
