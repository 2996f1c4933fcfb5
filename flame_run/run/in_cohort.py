"""Workers that are threads of one of a few processes (`launcher=cohort`): what they share there."""

import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from io import TextIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from omegaconf import DictConfig
from typing_extensions import override

from flame_run.control.pipe import Pipe
from flame_run.control.rendezvous import read_rendezvous
from flame_run.control.session import Session
from flame_run.data.shelf import Shelf
from flame_run.run.entry import LOG_FORMAT
from flame_run.run.workplace import Workplace, exit_soon, grpc_endpoint
from flame_run.security.job import security_of
from transports.base import Endpoint, Gate
from transports.grpc_channel.loop import LoopThread

if TYPE_CHECKING:
    from roles.fitters import Fitters


class InCohort(Workplace):
    """One socket to the controller and one loop for all connections of the process.

    Args:
        gate: lets one worker run at a time; None where there is only one.
    """

    def __init__(self, gate: Gate | None) -> None:
        self.shared = gate is not None
        self._gate = gate
        self._loop = LoopThread("flame-run cohort")
        self._output = _Output()
        self._shelf = Shelf()
        self._pipe: Pipe | None = None
        self._tls: Mapping[str, str | None] | None = None
        self._lock = threading.Lock()
        self._here: set[str] = set()
        self._stopping: set[str] = set()

    @cached_property
    def fitters(self) -> "Fitters":
        """One for all."""
        return super().fitters

    def close(self) -> None:
        """Let go of what the workers shared; all of them have ended."""
        if self._pipe is not None:
            self._pipe.close()
        self._loop.close()
        self._output.close()

    @override
    def session(self, cfg: DictConfig) -> Session:
        name = str(cfg.worker.name)
        if self._pipe is None:
            address, token, self._tls = read_rendezvous(Path(cfg.worker.rendezvous))
            self._pipe = Pipe(address, token, timeout=cfg.faults.join_timeout)
        security = None if self._tls is None else security_of(self._tls, name)
        return self._pipe.session(name, gate=self._gate, security=security)

    @override
    def endpoint(self, part: Mapping[str, Any], session: Session) -> Endpoint:
        return grpc_endpoint(part, session, gate=self._gate, loop=self._loop)

    @override
    @contextmanager
    def attended(self, worker: str, output: Path) -> Iterator[None]:
        with self._lock:
            self._here.add(worker)
        try:
            with self._output.of_this_thread(output / "worker.log"), self._shelf.used():
                yield
        finally:
            with self._lock:
                self._here.discard(worker)

    @override
    def waiting(self) -> AbstractContextManager[object]:
        return nullcontext() if self._gate is None else self._gate.released()

    @override
    def stopping(self, worker: str) -> None:
        """The process ends by force only if everybody has to stop: one that lingers does not take the others along."""
        with self._lock:
            self._stopping.add(worker)
            everybody = self._here <= self._stopping
        if everybody:
            exit_soon(", ".join(sorted(self._here)))


class _Output(TextIOBase):
    """What the workers of this process print and log goes to the log of each; what is nobody's, to that of the first.

    It stands for standard output, standard error and the stream of the log as long as it is open.
    """

    def __init__(self) -> None:
        self._files: dict[int, TextIO] = {}
        self._first: TextIO | None = None
        self._former = sys.stdout, sys.stderr
        sys.stdout = sys.stderr = self
        logging.basicConfig(stream=self, level=logging.INFO, format=LOG_FORMAT, force=True)

    @contextmanager
    def of_this_thread(self, path: Path) -> Iterator[None]:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a", buffering=1, encoding="utf-8")
        if self._first is None:
            self._first = file
            # What native code prints, and the interpreter at its end.
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        self._files[threading.get_ident()] = file
        try:
            yield
        finally:
            del self._files[threading.get_ident()]
            if file is not self._first:
                file.close()

    @override
    def writable(self) -> bool:
        return True

    @override
    def write(self, text: str, /) -> int:
        file = self._files.get(threading.get_ident(), self._first) or self._former[1]
        return file.write(text)

    @override
    def flush(self) -> None:
        for file in [*self._files.values(), *([] if self._first is None else [self._first])]:
            file.flush()

    @override
    def close(self) -> None:
        """Put back what was there before."""
        sys.stdout, sys.stderr = self._former
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=LOG_FORMAT, force=True)
        if self._first is not None:
            self._first.close()
            self._first = None
        super().close()
