"""A trainer that holds the last round of a job until a test lets it go on: the job outlasts whatever the test does to it."""

import os
from pathlib import Path
from typing import Any

from roles import Trainer

GATE, ROUND, LEAK = "HOSTILE_GATE", "HOSTILE_ROUND", "HOSTILE_LEAK"
"""Variables: a named pipe that somebody opens for writing when the round may begin; the number of that round; a file that a
trainer of bad faith writes the token of the channels to."""


class GatedTrainer(Trainer):
    """The built-in trainer; waits before it trains in the round that the environment names."""

    def train(self, task: Any) -> Any:
        if task.round == 1 and self.context.index == 0 and LEAK in os.environ:
            endpoint: Any = self.context.endpoint
            Path(os.environ[LEAK]).write_bytes(endpoint.token)
        if os.environ.get(ROUND) == str(task.round):
            # Opening a named pipe lasts until somebody has opened its other side.
            with Path(os.environ[GATE]).open("rb"):
                pass
        return super().train(task)
