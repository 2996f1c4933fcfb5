"""What workers do: the roles, their functions, and the algorithms they run.

`from roles import Trainer` and the like load torch and Lightning; importing this package alone loads neither.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from roles.tags import function

if TYPE_CHECKING:
    from roles.aggregator import Aggregator
    from roles.context import Context
    from roles.coordinator import Coordinator
    from roles.null import NullTrainer
    from roles.role import Role
    from roles.strategy import FedAvg, Strategy
    from roles.trainer import Trainer

__all__ = ["Aggregator", "Context", "Coordinator", "FedAvg", "NullTrainer", "Role", "Strategy", "Trainer", "function"]

_HOMES = {
    "Aggregator": "roles.aggregator",
    "Context": "roles.context",
    "Coordinator": "roles.coordinator",
    "FedAvg": "roles.strategy",
    "NullTrainer": "roles.null",
    "Role": "roles.role",
    "Strategy": "roles.strategy",
    "Trainer": "roles.trainer",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'roles' has no attribute {name!r}")
