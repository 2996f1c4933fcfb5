"""A session over gRPC: one long-lived bidirectional stream to the controller, dialled again where it breaks.

It uses gRPC's threads, not its asyncio: asyncio loops of one process share a queue of gRPC events, and one loop that
ends while others run makes them lose some. A worker has few sessions and may run a loop of its own for its data.
"""

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, Protocol, cast

import grpc
from typing_extensions import override

from flame_run.control import wire
from flame_run.control.errors import ConnectionLost, ControlError, SessionRefused
from flame_run.control.limits import ControlLimits
from flame_run.control.outbox import Outbox
from flame_run.control.wired_session import WiredSession
from flame_run.security.names import CONTROLLER
from transports.errors import AddressError, ProtocolError
from transports.grpc_channel.security import Clear, Security

log = logging.getLogger(__name__)
REDIAL = 0.1
"""Seconds before the first attempt to dial again; doubles up to `REDIAL_MOST`."""
REDIAL_MOST = 2.0
_LONGEST_CONNECT = 10.0


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


class GrpcSession(WiredSession):
    """Speaks to a `ControlServer`.

    A connection that breaks, or over which nothing comes for the heartbeat of the job, is dialled again for as long as
    the heartbeat lasts; then the session is lost.

    Args:
        address: `host:port` of the controller.
        token: the job token.
        worker: name in the plan.
        limits: bounds on what both sides may say.
        security: protects the connection; default none but the token. Closed with the session.
    """

    def __init__(
        self,
        address: str,
        token: str,
        worker: str,
        *,
        limits: ControlLimits | None = None,
        security: Security | None = None,
    ) -> None:
        super().__init__(worker, address, limits=limits)
        self.security: Security = security or Clear()
        self._token = token
        self._outbox = Outbox()
        self._name = secrets.token_hex(16)
        self._attempt = 0
        self._patience = 0.0
        """Seconds that a broken connection may take to come back."""
        self._broken_at: float | None = None
        self._heard_at = 0.0
        self._channel: grpc.Channel | None = None
        self._stream: Stream | None = None
        self._reader: threading.Thread | None = None
        self._ending = threading.Event()

    @override
    def _register(self, timeout: float) -> None:
        self._patience = timeout
        self._reader = threading.Thread(target=self._follow, name=f"flame-run-session-{self.worker}", daemon=True)
        self._reader.start()

    @override
    def _part_well(self, timeout: float) -> None:
        # The stream ends well by itself now; cancelling it here would look like a break at the other side.
        self._join(timeout)

    @override
    def _transmit(self, report: bytes, *, may_wait: bool) -> None:
        self._outbox.put(report)

    # -- the connection

    def _connect(self) -> grpc.Channel:
        """A new connection for each stream, so that the controller's certificate is judged anew; closes the one before."""
        if self._channel is not None:
            self._channel.close()
        self._channel = None
        timeout = min(self._patience, _LONGEST_CONNECT)
        self._channel = self.security.connect_blocking(self._address, CONTROLLER, self._options(), timeout)
        return self._channel

    def _options(self) -> list[tuple[str, Any]]:
        return [
            ("grpc.max_receive_message_length", self._limits.max_order_bytes),
            ("grpc.max_send_message_length", self._limits.max_report_bytes + wire.NUMBER_BYTES),
            # The controller of a job is never behind the proxy that the environment names for the web.
            ("grpc.enable_http_proxy", 0),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", int(REDIAL * 1000)),
            ("grpc.min_reconnect_backoff_ms", int(REDIAL * 1000)),
            ("grpc.max_reconnect_backoff_ms", int(REDIAL_MOST * 1000)),
            ("grpc.keepalive_time_ms", 20_000),
            ("grpc.keepalive_timeout_ms", 20_000),
        ]

    def _follow(self) -> None:
        """Read one stream after another until the session is over."""
        wait = REDIAL
        while True:
            failure = self._read_stream()
            if self._over or self.aborted is not None or isinstance(failure, SessionRefused):
                self._lose(failure)
                return
            if self._broken_at is None:
                log.warning("%s; trying to come back for %g s", failure, self._patience)
                self._broken_at, wait = time.monotonic(), REDIAL
            left = self._left
            if left <= 0 or self._ending.wait(min(wait, left)):
                self._lose(ConnectionLost(f"{failure}; it did not come back within {self._patience:g} s"))
                return
            wait = min(2 * wait, REDIAL_MOST)

    @property
    def _left(self) -> float:
        """Seconds that the connection may still take to come about."""
        return self._patience if self._broken_at is None else self._broken_at + self._patience - time.monotonic()

    def _read_stream(self) -> ControlError:
        """Dial and take what comes until the stream ends; returns why it did."""
        self._attempt += 1
        again = self._part.done()
        hello = wire.register(self.worker, os.getpid(), socket.gethostname(), self._name, again=again, attempt=self._attempt)
        reports = self._watched(self._outbox.stream(hello))
        self._heard_at = time.monotonic()
        try:
            stream = self._stream = self._dial(reports)
        except ValueError as error:
            return ConnectionLost(f"the session was closed: {error}")
        except (ProtocolError, AddressError) as error:
            return ConnectionLost(str(error))
        watch = threading.Timer(max(0.0, self._left), stream.cancel)
        watch.daemon = True
        watch.start()
        try:
            for data in stream:
                watch.cancel()
                self._take(data)
        except grpc.RpcError:
            return self._failure(stream)
        except ValueError as error:
            stream.cancel()
            return SessionRefused("malformed", f"the controller sent what is no order: {error}")
        finally:
            watch.cancel()
        return ConnectionLost("the controller ended the session")

    def _dial(self, reports: Iterator[bytes]) -> Stream:
        if self._ending.is_set():
            raise ValueError("no channel")
        method: Any = self._connect().stream_stream(f"/{wire.SERVICE}/{wire.METHOD}")
        metadata = ((wire.TOKEN_KEY, self._token), *self.security.metadata(CONTROLLER))
        return cast("Stream", method(reports, metadata=metadata, wait_for_ready=True))

    def _watched(self, reports: Iterator[bytes]) -> Iterator[bytes]:
        """`reports`, as long as something comes back: the controller answers every heartbeat."""
        for report in reports:
            if self._part.done() and time.monotonic() - self._heard_at > self._patience and self._stream is not None:
                self._stream.cancel()
                return
            yield report

    def _take(self, data: bytes) -> None:
        self._heard_at = time.monotonic()
        order = wire.parse_order(data)
        if order.WhichOneof("body") == "received":
            self._broken_at = None
            self._outbox.received(order.received.number)
        else:
            self._obey(order)

    def _take_heartbeat(self, seconds: float) -> None:
        self._patience = seconds
        self._outbox.beat(seconds / 3)

    def _failure(self, stream: Stream) -> ControlError:
        code, details = stream.code(), stream.details()
        if (kind := wire.refusal_kind(code.name)) is not None:
            return SessionRefused(kind, details)
        return ConnectionLost(f"the connection to the controller at {self._address} broke: {details or code.name}")

    @property
    def _over(self) -> bool:
        return self._farewell.done() or self._closed or self._ending.is_set()

    def _lose(self, error: ControlError) -> None:
        self._outbox.end()
        super()._lose(error)

    def _join(self, timeout: float) -> None:
        # A close from within `on_abort` runs in the reader itself.
        if self._reader is not None and self._reader is not threading.current_thread():
            self._reader.join(timeout)

    @override
    def _end(self) -> None:
        self._ending.set()
        self._outbox.end()
        if self._stream is not None:
            self._stream.cancel()
        if self._channel is not None:
            self._channel.close()
        self._join(5.0)
        if self._channel is not None:  # made while this one closed the one before
            self._channel.close()
        self.security.close()
