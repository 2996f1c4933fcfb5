"""Parts of a Lightning trainer that do less than Lightning's own where a short fit would notice."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any

from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from typing_extensions import override


def lean(options: Mapping[str, Any]) -> dict[str, Any]:
    """Complete options of Lightning's `Trainer` with the parts below, each where the options leave the choice to Lightning."""
    parts = dict(options)
    if parts.get("profiler") is None:
        parts["profiler"] = Unprofiled()
    single = (parts.get("accelerator"), parts.get("devices"), parts.get("num_nodes", 1)) == ("cpu", 1, 1)
    if single and parts.get("strategy", "auto") == "auto":
        parts["strategy"] = OnCpu()
    return parts


class Unprofiled(PassThroughProfiler):
    """Measures nothing. Lightning asks it about a hundred times in a fit, and its own makes a generator each time."""

    def __init__(self) -> None:
        super().__init__()
        self._nothing = nullcontext()

    @override
    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return self._nothing


class OnCpu(SingleDeviceStrategy):
    """Trains on the CPU. A module that is there already is not moved there tensor by tensor, before and after every fit."""

    @override
    def model_to_device(self) -> None:
        if not self._there():
            super().model_to_device()

    @override
    def teardown(self) -> None:
        if not self._there():
            super().teardown()
            return
        # All of Lightning's but moving the module and the optimizers, whose state is where the parameters are.
        self.precision_plugin.teardown()
        if self.accelerator is not None:
            self.accelerator.teardown()
        self.checkpoint_io.teardown()

    def _there(self) -> bool:
        module = self.lightning_module
        return module is not None and all(value.is_cpu for value in chain(module.parameters(), module.buffers()))
