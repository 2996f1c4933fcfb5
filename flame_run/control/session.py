"""A worker's side of the control plane: the contract that every session keeps."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from transports.grpc_channel.security import Security

OnAbort = Callable[[str], None]
OnGone = Callable[[str, str], None]
OnAddresses = Callable[[Mapping[str, str]], None]


class Session(ABC):
    """The line from one worker to the controller.

    Reports keep their order, return at once and may come from any thread; `close` returns when the controller has all
    of them, each once, also if the connection broke in between and came back. After it was lost for good, reports are
    dropped: `on_abort` has said so, and `close` raises. A report over the limit of one message raises `SessionRefused` at once.

    The callbacks are called from a thread of the session and must not block. What happened before one was set is told
    when it is set.
    """

    def __init__(self, worker: str) -> None:
        self.worker = worker
        self.security: Security | None = None
        """What protects the connections of this worker; None where it has none."""
        self._callback_lock = threading.RLock()
        self._abort_reason: str | None = None
        self._on_abort: OnAbort | None = None
        self._gone: dict[str, str] = {}
        self._on_gone: OnGone | None = None
        self._addresses: dict[str, str] = {}
        self._on_addresses: OnAddresses | None = None

    @property
    def aborted(self) -> str | None:
        """Why the worker has to stop, None while it may go on."""
        return self._abort_reason

    @property
    def on_abort(self) -> OnAbort | None:
        """Called once with the reason when the controller stops this worker or is lost for good."""
        return self._on_abort

    @on_abort.setter
    def on_abort(self, function: OnAbort | None) -> None:
        with self._callback_lock:
            self._on_abort = function
            if function is not None and self._abort_reason is not None:
                function(self._abort_reason)

    @property
    def on_gone(self) -> OnGone | None:
        """Called with the name of a worker that will not come back, and why; once for each."""
        return self._on_gone

    @on_gone.setter
    def on_gone(self, function: OnGone | None) -> None:
        with self._callback_lock:
            self._on_gone = function
            if function is not None:
                for worker, reason in self._gone.items():
                    function(worker, reason)

    @property
    def on_addresses(self) -> OnAddresses | None:
        """Called with the addresses (`host:port`) of those workers that listen, and again with those that have changed.

        It is called before `wait_start` returns, and always in the order in which things changed.
        """
        return self._on_addresses

    @on_addresses.setter
    def on_addresses(self, function: OnAddresses | None) -> None:
        with self._callback_lock:
            self._on_addresses = function
            if function is not None and self._addresses:
                function(dict(self._addresses))

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
        with self._callback_lock:
            if self._abort_reason is not None:
                return
            self._abort_reason = reason
            if self._on_abort is not None:
                self._on_abort(reason)

    def _note_gone(self, worker: str, reason: str) -> None:
        with self._callback_lock:
            if worker in self._gone:
                return
            self._gone[worker] = reason
            if self._on_gone is not None:
                self._on_gone(worker, reason)

    def _note_addresses(self, addresses: Mapping[str, str]) -> dict[str, str]:
        """Take addresses; returns all that are known."""
        with self._callback_lock:
            changed = {worker: address for worker, address in addresses.items() if self._addresses.get(worker) != address}
            self._addresses |= changed
            if self._on_addresses is not None and changed:
                self._on_addresses(changed)
            return dict(self._addresses)
