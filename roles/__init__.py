"""What workers do: the roles, their functions, and the algorithms they run.

`from roles import Trainer` and the like load torch and Lightning; importing this package alone loads neither.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from roles.tags import function

if TYPE_CHECKING:
    from roles.aggregator import Aggregator
    from roles.algorithms.fedavg import FedAvg
    from roles.context import Context
    from roles.coordinator import Coordinator
    from roles.null import NullTrainer
    from roles.part import Client, Gathered
    from roles.role import Role
    from roles.strategy import Strategy
    from roles.trainer import Trainer

__all__ = [
    "Aggregator",
    "Client",
    "Context",
    "Coordinator",
    "FedAvg",
    "Gathered",
    "NullTrainer",
    "Role",
    "Strategy",
    "Trainer",
    "function",
]

_HOMES = {
    "Aggregator": "roles.aggregator",
    "Client": "roles.part",
    "Context": "roles.context",
    "Coordinator": "roles.coordinator",
    "FedAvg": "roles.algorithms.fedavg",
    "Gathered": "roles.part",
    "NullTrainer": "roles.null",
    "Role": "roles.role",
    "Strategy": "roles.strategy",
    "Trainer": "roles.trainer",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'roles' has no attribute {name!r}")
