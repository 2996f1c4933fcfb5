"""What workers share that are threads of the runner's process (`launcher=debug`)."""

from dataclasses import dataclass

from flame_run.control.controller import Controller
from transports.base import Gate
from transports.inproc import Hub


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """Where such workers meet each other and the controller, and who of them may run."""

    controller: Controller
    hub: Hub
    gate: Gate
