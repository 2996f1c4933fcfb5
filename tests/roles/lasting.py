"""Jobs that last until something has happened, however long a thread has to wait for its turn."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

from lightning.pytorch import LightningModule

from roles.settings import Stop
from tests.roles.federation import Federation, Job, Layout, Record
from tests.roles.specimens import Classifier, Points

ENDLESS = 10**6
"""So many rounds that a job comes to its end in another way."""

Happened = Callable[[Mapping[str, Record]], bool]


def died(*names: str) -> Happened:
    """Whether all of these workers have failed."""
    return lambda records: all(records[name].error is not None for name in names)


def back(name: str) -> Happened:
    """Whether a worker has entered a round since it was started anew."""
    return lambda records: bool(records[name].deaths) and len(records[name].rounds) > records[name].done


def federate_until(layout: Layout, job: Job, happened: Happened, *, more: int = 4, restart: bool = False) -> dict[str, Record]:
    """Run a job, whose module is a `Classifier`, until something has happened, and `more` rounds longer.

    The root finds out when it tests the model of a round: it is the early end of the job.
    """
    records: Mapping[str, Record] = {}
    seen = 0

    class Asking(Classifier):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            nonlocal seen
            seen += happened(records)
            self.log("seen", float(seen))

    def build() -> LightningModule:
        plain = cast("Classifier", job.build_module())
        return Asking(plain.net, lr=plain.lr, momentum=plain.momentum)

    stop = Stop(metric="seen", target=1.0 + more)
    settings = replace(job.settings, rounds=ENDLESS, stop=stop)
    federation = Federation(
        layout, replace(job, build_module=build, build_test_data=lambda: Points(0, 1), settings=settings), restart=restart
    )
    records = federation.records
    return federation.run()
