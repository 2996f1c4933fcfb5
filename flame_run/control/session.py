"""A worker's side of the control plane: the contract that every session keeps."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

OnAbort = Callable[[str], None]


class Session(ABC):
    """The line from one worker to the controller.

    Reports keep their order, return at once and may come from any thread; `close` returns when the controller has all
    of them. After the connection was lost, reports are dropped: `on_abort` has said so, and `close` raises. A report
    over the limit of one message raises `SessionRefused` at once.
    """

    def __init__(self, worker: str) -> None:
        self.worker = worker
        self._abort_lock = threading.Lock()
        self._abort_reason: str | None = None
        self._on_abort: OnAbort | None = None

    @property
    def aborted(self) -> str | None:
        """Why the worker has to stop, None while it may go on."""
        return self._abort_reason

    @property
    def on_abort(self) -> OnAbort | None:
        """Called once with the reason, from a thread of the session, when the controller stops this worker or is lost.

        A function set after that has happened is called at once. It must not block.
        """
        return self._on_abort

    @on_abort.setter
    def on_abort(self, function: OnAbort | None) -> None:
        with self._abort_lock:
            self._on_abort = function
            reason = self._abort_reason
        if function is not None and reason is not None:
            function(reason)

    @abstractmethod
    def open(self, timeout: float) -> Mapping[str, Any]:
        """Connect, register and return the worker's part of the plan; `timeout` in seconds.

        Raises:
            SessionRefused: the controller would not have this worker.
            ConnectionLost: the connection broke.
            ControlTimeout: nobody answered in time.
        """

    @abstractmethod
    def ready(self, address: str | None) -> None:
        """Say that this worker can start, and listens at `address` (`host:port`) if it listens."""

    @abstractmethod
    def wait_start(self, timeout: float) -> dict[str, str]:
        """Block until every worker of the plan is ready; `timeout` in seconds.

        Returns:
            Worker name -> `host:port` of those that listen.

        Raises:
            SessionAborted, SessionRefused, ConnectionLost: it will not come, as the controller said so or is gone.
            ControlTimeout: it did not come in time.
        """

    @abstractmethod
    def state(self, state: str, *, round_: int | None = None, error: str | None = None, secondary: bool = False) -> None:
        """Report `running` (once for every `round_` entered, from 1), `completed`, `failed` or `terminated`.

        `secondary`: the worker failed because a peer vanished.
        """

    @abstractmethod
    def metrics(self, round_: int | None, values: Mapping[str, float]) -> None:
        """Report values measured in `round_`."""

    @abstractmethod
    def progress(self, epoch: int, epochs: int) -> None:
        """Report that `epoch` of `epochs` local epochs is done."""

    @abstractmethod
    def result(self, result: Mapping[str, Any]) -> None:
        """Report a root's result so far, JSON-able; a later one replaces it."""

    @abstractmethod
    def close(self, timeout: float = 10.0) -> None:
        """Say goodbye, wait until the controller has every report, and end the connection. Idempotent.

        Raises:
            ConnectionLost, SessionRefused: the session ended before that; the last reports may be missing.
            ControlTimeout: the controller did not answer within `timeout` seconds.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _abort(self, reason: str) -> None:
        with self._abort_lock:
            if self._abort_reason is not None:
                return
            self._abort_reason = reason
            function = self._on_abort
        if function is not None:
            function(reason)
