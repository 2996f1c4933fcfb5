"""Where workers find the controller: in this process, over one socket of this machine, or over the network."""

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from flame_run.control.controller import Controller
from flame_run.control.rendezvous import write_rendezvous
from flame_run.join.invite import Invitations, address_of_sites
from flame_run.launch.cohort import CohortLauncher
from flame_run.launch.local import LocalLauncher
from flame_run.run.entry import WorkInCohort, work_in_process
from flame_run.run.folder import RunFolder
from flame_run.run.parts import Parts
from flame_run.security.config import token_file
from flame_run.security.job import JobSecurity
from flame_run.topology.plan import Plan

if TYPE_CHECKING:
    from flame_run.control.pipe_server import PipeServer
    from flame_run.control.server import ControlServer
    from transports.grpc_channel.security import Security

MANY = 16
"""Workers with data for each core: if there are more, they had better share processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reception:
    """Opens the controller to the workers of a job."""

    cfg: DictConfig
    plan: Plan
    folder: RunFolder
    parts: Parts
    controller: Controller
    security: JobSecurity
    launcher: Any
    here: Sequence[str]
    """Names of the workers that the launcher starts, in its order."""
    joining: Sequence[str]
    """Names of those that sites start."""
    say: Callable[[str], None]
    """Shows a line of text."""

    def open(self, stack: ExitStack) -> Callable[[DictConfig], None]:
        """Let workers connect until `stack` is closed; returns what each of them runs."""
        gate, hub = getattr(self.launcher, "gate", None), getattr(self.launcher, "hub", None)
        if gate is not None and hub is not None:
            from flame_run.run.in_runner import InRunner  # noqa: PLC0415 - imports torch, here as in every worker
            from flame_run.run.worker import work  # noqa: PLC0415

            return partial(work, workplace=InRunner(controller=self.controller, hub=hub, gate=gate))
        server = self._server(self.security.prepare(stack))
        address = server.start()
        stack.callback(server.stop)
        write_rendezvous(self.folder.rendezvous, address, self.controller.token, self.security.tls)
        for warning in self.security.warnings:
            self.say(f"warning: {warning}")
        if isinstance(self.launcher, CohortLauncher):
            self.launcher.alone = {at for at, name in enumerate(self.here) if self.plan.worker(name).dataset is None}
            return WorkInCohort()
        self._invite(address)
        self._hint()
        return work_in_process

    def _server(self, security: "Security | None") -> "ControlServer | PipeServer":
        heartbeat = self.cfg.faults.heartbeat
        if isinstance(self.launcher, CohortLauncher):
            from flame_run.control.pipe_server import PipeServer  # noqa: PLC0415 - each launcher loads its own kind

            return PipeServer(self.controller, heartbeat=heartbeat)
        from flame_run.control.server import ControlServer  # noqa: PLC0415

        bind, port = self.cfg.transport.bind, self.cfg.transport.port
        return ControlServer(self.controller, host=bind, port=port, heartbeat=heartbeat, security=security)

    def _invite(self, address: str) -> None:
        """Tell how the workers join that are not started here, and write what their sites need."""
        if self.joining:
            bundles = self.folder.bundles if token_file(self.cfg.security) is None else None
            seen = address_of_sites(address, self.cfg.transport.advertise)
            invitations = Invitations(plan=self.plan, parts=self.parts, names=tuple(self.joining), address=seen, bundles=bundles)
            invitations.write(self.controller.token)
            self.security.hand_over(self.folder.bundles)
            for line in invitations.text():
                self.say(line)

    def _hint(self) -> None:
        """Tell of the launcher that is made for many workers."""
        cores, trainers = len(os.sched_getaffinity(0)), sum(self.plan.worker(name).dataset is not None for name in self.here)
        if type(self.launcher) is LocalLauncher and trainers > MANY * cores:
            few = cores + len(self.here) - trainers
            self.say(f"hint: {len(self.here)} workers get a process each; with launcher=cohort they would share {few}")
