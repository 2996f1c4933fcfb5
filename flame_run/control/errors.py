"""Errors of the control plane.

FlameRunError
└── ControlError         the runner and a worker cannot talk to each other
    ├── SessionRefused   the controller would not have this worker (token, name, message)
    ├── SessionAborted   the controller told this worker to stop
    ├── ConnectionLost   the connection to the controller broke
    └── ControlTimeout   a wait reached its end; the text names what was waited for
"""

from flame_run.errors import FlameRunError


class ControlError(FlameRunError):
    """Base of the errors between the runner and its workers."""


class SessionRefused(ControlError):
    """The controller refused a worker or one of its messages.

    `kind` is one word for counting: `token`, `certificate`, `name`, `taken`, `malformed`, `oversized`, `aborted`, `silent`, `gone`.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class SessionAborted(ControlError):
    """The controller told this worker to stop; the text is the reason."""


class ConnectionLost(ControlError):
    """The connection between a worker and the controller broke; the text says how."""


class ControlTimeout(ControlError):
    """A wait of the control plane reached its deadline; the text names what it waited for."""
