"""What a person sees of a run: a live table on a terminal, plain lines elsewhere, and the task table at the end."""

import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO, Protocol, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from flame_run.run.records import TaskRecord
from flame_run.run.tasks import task_table

Epochs = Mapping[str, tuple[int, int]]
FLUSH = 5.0
"""Seconds that the last lines have to be read by whoever reads them."""
COLOURS = {"running": "cyan", "completed": "green", "failed": "bold red", "terminated": "yellow", "restarting": "yellow"}


class Display(Protocol):
    """Shows a run. Nothing here blocks; `close` shows the table of the tasks as they ended."""

    def update(self, rows: Sequence[TaskRecord], epochs: Epochs | None = None) -> None:
        """Take the tasks as they stand (each with the time of its last change), and local epochs (done, of how many)."""

    def metrics(self, round_: int | None, values: Mapping[str, float], root: str = "") -> None:
        """Take metrics of the global model of `round_`; `root` names whose model, where there are several."""

    def message(self, text: str) -> None:
        """Show a line that stays."""

    def close(self) -> None:
        """End the display and print the task table. Idempotent."""


def make_display(title: str, rounds: int | None, out: TextIO | None = None, *, live: bool = True) -> Display:
    """Choose the display for `out` (default: standard output).

    Args:
        title: the job, in a few words.
        rounds: how many rounds it has, None if nobody knows.
        out: where to show it; a terminal gets the live table.
        live: False keeps to lines also on a terminal, for one that a debugger needs.
    """
    console = Console(file=out or sys.stdout)
    return LiveDisplay(title, rounds, console) if live and console.is_terminal else PlainDisplay(title, rounds, console.file)


class PlainDisplay:
    """Lines for logs and pipes: the start, each round with its metrics, messages, the task table at the end."""

    def __init__(self, title: str, rounds: int | None, out: IO[str]) -> None:
        self._of = "" if rounds is None else f"/{rounds}"
        self._out = out
        self._title = title
        self._rows: Sequence[TaskRecord] = ()
        self._begun = time.monotonic()
        self._closed = False
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="display", daemon=True)
        self._writer.start()

    def update(self, rows: Sequence[TaskRecord], epochs: Epochs | None = None) -> None:  # noqa: ARG002 - too much for lines
        """See `Display.update`."""
        if not self._rows:
            self._print(f"{self._title}: {_by_role(rows)}")
        self._rows = rows

    def metrics(self, round_: int | None, values: Mapping[str, float], root: str = "") -> None:
        """See `Display.metrics`."""
        where = f"{root}, " if root else ""
        self._print(f"{where}round {round_ or 0}{self._of}: {_metrics(values)} ({time.monotonic() - self._begun:.1f} s)")

    def message(self, text: str) -> None:
        """See `Display.message`."""
        self._print(text)

    def close(self) -> None:
        """See `Display.close`."""
        if not self._closed:
            self._closed = True
            self._print(task_table(self._rows))
            self._lines.put(None)
            self._writer.join(FLUSH)

    def _print(self, text: str) -> None:
        self._lines.put(text)

    def _write(self) -> None:
        """Print in a thread of its own: a reader that stalls or has gone away must not hold up the job."""
        with suppress(OSError):
            while (text := self._lines.get()) is not None:
                print(text, file=self._out, flush=True)


class LiveDisplay:
    """A table that follows the run, redrawn four times a second by rich."""

    def __init__(self, title: str, rounds: int | None, console: Console) -> None:
        self._title = title
        self._rounds = rounds
        self._console = console
        self._rows: Sequence[TaskRecord] = ()
        self._epochs: Epochs = {}
        self._metrics: dict[str, str] = {}
        self._begun = time.monotonic()
        self._closed = False
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=4, transient=True)
        self._live.start()

    def update(self, rows: Sequence[TaskRecord], epochs: Epochs | None = None) -> None:
        """See `Display.update`."""
        self._rows, self._epochs = tuple(rows), dict(epochs or {})

    def metrics(self, round_: int | None, values: Mapping[str, float], root: str = "") -> None:
        """See `Display.metrics`."""
        self._metrics = {**self._metrics, root: f"{root} round {round_ or 0}: {_metrics(values)}".strip()}

    def message(self, text: str) -> None:
        """See `Display.message`."""
        self._console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """See `Display.close`."""
        if self._closed:
            return
        self._closed = True
        self._live.stop()
        for line in self._metrics.values():
            self.message(line)
        table = task_table(self._rows, short=self._console.width < 140)  # noqa: PLR2004 - what the full ids take
        self._console.print(table, markup=False, highlight=False, soft_wrap=True)

    def _render(self) -> RenderableType:
        rows = self._rows
        round_ = max((row.round or 0 for row in rows), default=0)
        of = "" if self._rounds is None else f" of {self._rounds}"
        head = Text.from_markup(f"[bold]{escape(self._title)}[/]  round {round_}{of}  {time.monotonic() - self._begun:.0f} s")
        # Below the head, the metrics and the table's own lines the screen must hold every row.
        room = self._console.height - len(self._metrics) - 6
        table = self._each(rows) if len(rows) <= room else _roles(rows)
        return Group(head, *(Text(line) for line in self._metrics.values()), table)

    def _each(self, rows: Sequence[TaskRecord]) -> Table:
        table = Table("task", "worker", "type", "state", "round", "epoch", "time")
        for row in rows:
            epoch = self._epochs.get(row.worker)
            table.add_row(
                row.task_id[:10],
                escape(row.worker),
                row.type,
                Text(row.state, style=COLOURS.get(row.state, "")),
                str(row.round or "-"),
                "-" if epoch is None else f"{epoch[0]}/{epoch[1]}",
                time.strftime("%H:%M:%S", time.localtime(row.time)),
            )
        return table


def _roles(rows: Sequence[TaskRecord]) -> Table:
    table = Table("role", "tasks", "states", "rounds")
    for role in dict.fromkeys(row.role for row in rows):
        mine = [row for row in rows if row.role == role]
        states = ", ".join(f"{count} {state}" for state, count in Counter(row.state for row in mine).items())
        rounds = sorted({row.round or 0 for row in mine})
        table.add_row(escape(role), str(len(mine)), states, f"{rounds[0]}-{rounds[-1]}" if len(rounds) > 1 else str(rounds[0]))
    return table


def _by_role(rows: Sequence[TaskRecord]) -> str:
    counts = Counter(row.role for row in rows)
    return f"{len(rows)} workers (" + ", ".join(f"{count} {role}" for role, count in counts.items()) + ")"


def _metrics(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())
