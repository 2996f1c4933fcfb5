"""A session over gRPC: one long-lived bidirectional stream to the controller.

It uses gRPC's threads, not its asyncio: asyncio loops of one process share a queue of gRPC events, and one loop that
ends while others run makes them lose some. A worker has few sessions and may run a loop of its own for its data.
"""

import json
import math
import os
import queue
import socket
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import Any, Protocol, cast

import grpc

from flame_run.control import wire
from flame_run.control.errors import ConnectionLost, ControlError, ControlTimeout, SessionAborted, SessionRefused
from flame_run.control.limits import ControlLimits
from flame_run.control.session import Session


class Stream(Protocol):
    """What is used of gRPC's call object."""

    def __iter__(self) -> Iterator[bytes]:
        """Wait for the controller's messages; raises `grpc.RpcError` unless the stream ends well."""

    def code(self) -> grpc.StatusCode:
        """How it ended."""

    def details(self) -> str:
        """Why."""

    def cancel(self) -> bool:
        """End it."""


class GrpcSession(Session):
    """Speaks to a `ControlServer`.

    Args:
        address: `host:port` of the controller.
        token: the job token.
        worker: name in the plan.
        limits: bounds on what both sides may say.
    """

    def __init__(self, address: str, token: str, worker: str, *, limits: ControlLimits | None = None) -> None:
        super().__init__(worker)
        self._address = address
        self._token = token
        self._limits = limits or ControlLimits()
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        """Reports; empty bytes only wake the sender up, None ends it."""
        self._beat = math.inf
        self._part: Future[dict[str, Any]] = Future()
        self._start: Future[dict[str, str]] = Future()
        self._farewell: Future[None] = Future()
        self._settle_lock = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._stream: Stream | None = None
        self._reader: threading.Thread | None = None
        self._opened = self._closed = False

    def open(self, timeout: float) -> Mapping[str, Any]:
        """See `Session.open`."""
        self._outgoing.put(wire.register(self.worker, os.getpid(), socket.gethostname()))
        self._channel = grpc.insecure_channel(self._address, options=self._options())
        method: Any = self._channel.stream_stream(f"/{wire.SERVICE}/{wire.METHOD}")
        metadata = ((wire.TOKEN_KEY, self._token),)
        self._stream = cast("Stream", method(self._reports(), metadata=metadata, wait_for_ready=True))
        name = f"flame-run-session-{self.worker}"
        self._reader = threading.Thread(target=self._read, args=(self._stream,), name=name, daemon=True)
        self._reader.start()
        try:
            part = self._part.result(timeout)
        except TimeoutError:
            what = f"registering {self.worker} with the controller at {self._address}"
            raise ControlTimeout(f"{what} took longer than {timeout:g} s") from None
        self._opened = True
        return part

    def ready(self, address: str | None) -> None:
        """See `Session.ready`."""
        self._send(wire.ready(address))

    def wait_start(self, timeout: float) -> dict[str, str]:
        """See `Session.wait_start`."""
        try:
            return self._start.result(timeout)
        except TimeoutError:
            raise ControlTimeout(f"{self.worker} waited {timeout:g} s for every worker to be ready") from None

    def state(self, state: str, *, round_: int | None = None, error: str | None = None, secondary: bool = False) -> None:
        """See `Session.state`."""
        self._send(wire.state(state, round_, error, secondary))

    def metrics(self, round_: int | None, values: Mapping[str, float]) -> None:
        """See `Session.metrics`."""
        self._send(wire.metrics(round_, values))

    def progress(self, epoch: int, epochs: int) -> None:
        """See `Session.progress`."""
        self._send(wire.progress(epoch, epochs))

    def result(self, result: Mapping[str, Any]) -> None:
        """See `Session.result`."""
        self._send(wire.result(result))

    def close(self, timeout: float = 10.0) -> None:
        """See `Session.close`."""
        if self._closed:
            return
        try:
            if self._opened:
                self._send(wire.goodbye())
                self._farewell.result(timeout)
                # The stream ends well by itself now; cancelling it here would look like a break at the other side.
                self._join(timeout)
        except TimeoutError:
            raise ControlTimeout(f"{self.worker} waited {timeout:g} s for the controller to acknowledge its last reports") from None
        finally:
            self._closed = True
            self._end()

    def _send(self, data: bytes) -> None:
        if not self._opened or self._closed:
            raise RuntimeError(f"the session of {self.worker} is not open")
        if len(data) > self._limits.max_report_bytes:
            reason = f"{self.worker} cannot report {len(data)} bytes at once (at most {self._limits.max_report_bytes})"
            raise SessionRefused("oversized", reason)
        self._outgoing.put(data)

    def _options(self) -> list[tuple[str, Any]]:
        return [
            ("grpc.max_receive_message_length", self._limits.max_order_bytes),
            ("grpc.max_send_message_length", self._limits.max_report_bytes),
            # The controller of a job is never behind the proxy that the environment names for the web.
            ("grpc.enable_http_proxy", 0),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.keepalive_time_ms", 20_000),
            ("grpc.keepalive_timeout_ms", 20_000),
        ]

    def _reports(self) -> Iterator[bytes]:
        """Feed the stream, with a heartbeat where nothing else was said."""
        while True:
            try:
                data = self._outgoing.get(timeout=None if math.isinf(self._beat) else self._beat)
            except queue.Empty:
                data = wire.heartbeat()
            if data is None:
                return
            if data:
                yield data

    def _read(self, stream: Stream) -> None:
        try:
            for data in stream:
                self._take(data)
        except grpc.RpcError:
            self._lose(self._failure(stream))
        except ValueError as error:
            self._lose(ConnectionLost(f"the controller sent what is no order: {error}"))
        else:
            self._lose(ConnectionLost("the controller ended the session"))

    def _take(self, data: bytes) -> None:
        order = wire.parse_order(data)
        match order.WhichOneof("body"):
            case "part":
                self._beat = order.part.heartbeat / 3
                self._outgoing.put(b"")
                self._settle(self._part, json.loads(order.part.json))
            case "start":
                self._settle(self._start, dict(order.start.addresses))
            case "abort":
                self._settle(self._start, SessionAborted(order.abort.reason))
                self._abort(order.abort.reason)
            case "farewell":
                self._settle(self._farewell, None)
            case body:
                raise ValueError(f"unexpected {body}")

    def _failure(self, stream: Stream) -> ControlError:
        code, details = stream.code(), stream.details()
        if (kind := wire.refusal_kind(code.name)) is not None:
            return SessionRefused(kind, details)
        return ConnectionLost(f"the connection to the controller at {self._address} broke: {details or code.name}")

    def _lose(self, error: ControlError) -> None:
        self._outgoing.put(None)
        if self._farewell.done() or self._closed:
            return
        for future in (self._part, self._start, self._farewell):
            self._settle(future, error)
        if self._opened:
            self._abort(str(error))

    def _settle(self, future: "Future[Any]", value: object) -> None:
        with self._settle_lock:
            if future.done():
                return
            if isinstance(value, Exception):
                future.set_exception(value)
            else:
                future.set_result(value)

    def _join(self, timeout: float) -> None:
        # A close from within `on_abort` runs in the reader itself.
        if self._reader is not None and self._reader is not threading.current_thread():
            self._reader.join(timeout)

    def _end(self) -> None:
        self._outgoing.put(None)
        if self._stream is not None:
            self._stream.cancel()
        if self._channel is not None:
            self._channel.close()
        self._join(5.0)
