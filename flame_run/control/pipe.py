"""One connection from a process to the controller, for the sessions of all its workers."""

import contextlib
import json
import os
import selectors
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING

from flame_run.control import wire
from flame_run.control.errors import ConnectionLost, ControlError, ControlTimeout, SessionRefused
from flame_run.control.limits import ControlLimits
from flame_run.control.pipe_frames import (
    BEAT,
    HEARTBEAT,
    HELLO,
    MESSAGE,
    QUIT,
    RECEIVE,
    REFUSED,
    SCHEME,
    Frame,
    Incoming,
    Outgoing,
    OversizedFrame,
    frame,
)
from flame_run.control.pipe_session import PipeSession
from flame_run.control.wired_session import LEAST_HEARTBEAT

if TYPE_CHECKING:
    # Importing them would import torch and grpc.
    from transports.base import Gate
    from transports.grpc_channel.security import Security

TIMEVAL = struct.Struct("@ll")
"""Seconds and microseconds."""
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Pipe:
    """Speaks to a `PipeServer`. Safe to use from any thread; made in the process that uses it, not before a fork.

    Such a connection breaks only when a process ends, so nothing is dialled again: then all sessions are lost, and also
    when nothing comes for the heartbeat of the job.

    Args:
        address: `unix:@NAME`, as `PipeServer.start` returned it.
        token: the job token.
        timeout: seconds that the controller may take to answer until it has told its heartbeat.
        limits: bounds on what both sides may say.

    Raises:
        ConnectionLost: nobody listens there.
    """

    def __init__(self, address: str, token: str, *, timeout: float, limits: ControlLimits | None = None) -> None:
        self.address = address
        self.limits = limits or ControlLimits()
        self._lock = threading.Lock()
        self._sessions: dict[int, PipeSession] = {}
        self._newest = 0
        self._failure: ControlError | None = None
        self._closing = False
        self._host = socket.gethostname()
        self._patience = timeout
        self._beat_at: float | None = None
        self._incoming = Incoming(self.limits.max_order_bytes)
        self._connection = _connect(address, timeout)
        self._waker, self._woken = socket.socketpair()
        for each in (self._connection, self._waker, self._woken):
            each.setblocking(False)
        self._outgoing = Outgoing(self._connection, self._wake)
        self._outgoing.put(frame(HELLO, 0, token.encode()))
        self._heard_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="flame-run-pipe", daemon=True)
        self._thread.start()

    def session(self, worker: str, *, gate: "Gate | None" = None, security: "Security | None" = None) -> PipeSession:
        """A session for `worker`, to be opened; arguments as in `PipeSession`."""
        return PipeSession(self, worker, gate=gate, security=security)

    def close(self, timeout: float = 5.0) -> None:
        """End the connection; sessions that have not said goodbye are lost. Idempotent.

        Raises:
            ControlTimeout: its thread did not end within `timeout` seconds: a callback of a session blocks.
        """
        self._closing = True
        self._wake()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)
            if self._thread.is_alive():
                raise ControlTimeout(f"the thread of the pipe to {self.address} did not end within {timeout:g} s")

    # -- for its sessions

    def join(self, session: PipeSession) -> int:
        """Let a session register; returns its number. It is told if the connection is lost."""
        hello = wire.register(session.worker, os.getpid(), self._host)
        with self._lock:
            self._newest += 1
            number, failure = self._newest, self._failure
            if failure is None:
                self._sessions[number] = session
                # The controller expects the numbers in order.
                self._outgoing.put(frame(MESSAGE, number, hello))
        if failure is not None:
            session.lose(failure)
        return number

    def send(self, number: int, report: bytes, *, may_wait: bool) -> None:
        """Let a report of a session go out; dropped once the connection is lost."""
        self._outgoing.put(frame(MESSAGE, number, report), may_wait=may_wait)

    def leave(self, number: int, reason: str | None) -> None:
        """End a session; `reason`: why it is lost, None where it has ended for the controller too."""
        with self._lock:
            self._sessions.pop(number, None)
        if reason is not None:
            self._outgoing.put(frame(QUIT, number, reason.encode()))

    # -- in the thread

    def _wake(self) -> None:
        # A full socket wakes the thread as well as one more byte; a closed one has none to wake.
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")

    def _run(self) -> None:
        failure: ControlError = ConnectionLost(f"the thread of the pipe to {self.address} ended")
        try:
            failure = self._follow()
        finally:
            self._lose(failure)
            for each in (self._connection, self._waker, self._woken):
                each.close()

    def _follow(self) -> ControlError:
        """Read and write until the connection ends; returns why it did."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, READ)
            selector.register(self._connection, READ)
            watched = READ
            while not self._closing:
                wanted = READ | WRITE if self._outgoing.congested else READ
                if wanted != watched:
                    selector.modify(self._connection, wanted)
                    watched = wanted
                for key, events in selector.select(self._pause()):
                    if key.fileobj is self._woken:
                        self._woken.recv(RECEIVE)
                    elif events & READ and (failure := self._receive()) is not None:
                        return failure
                    if events & WRITE:
                        self._outgoing.flush()
                if (late := self._keep_up()) is not None:
                    return late
        self._outgoing.flush()
        return ConnectionLost(f"the pipe to the controller at {self.address} was closed")

    def _pause(self) -> float:
        """Seconds until there is something to do unasked."""
        until = self._heard_at + self._patience
        for moment in (self._beat_at, self._outgoing.due):
            if moment is not None and moment < until:
                until = moment
        return max(0.0, until - time.monotonic())

    def _keep_up(self) -> ControlError | None:
        """Do what is due; returns why the connection ends, None if it goes on."""
        now = time.monotonic()
        if now - self._heard_at >= self._patience:
            return ConnectionLost(f"the controller at {self.address} was silent for {self._patience:g} s")
        if self._beat_at is not None and now >= self._beat_at:
            self._beat_at = now + self._patience / 3
            self._outgoing.put(frame(BEAT))
        due = self._outgoing.due
        if due is not None and now >= due:
            self._outgoing.flush()
        return None

    def _receive(self) -> ControlError | None:
        try:
            data = self._connection.recv(RECEIVE)
        except BlockingIOError:
            return None
        except OSError as error:
            return ConnectionLost(f"the connection to the controller at {self.address} broke: {error.strerror}")
        if not data:
            return ConnectionLost(f"the controller at {self.address} ended the connection")
        self._heard_at = time.monotonic()
        try:
            for each in self._incoming.feed(data):
                self._take(each)
        except SessionRefused as refusal:
            return refusal
        except (OversizedFrame, ValueError) as error:
            return SessionRefused("malformed", f"the controller sent what is no order: {error}")
        return None

    def _take(self, each: Frame) -> None:
        kind, number, body = each
        session = self._sessions.get(number)
        if kind == MESSAGE:
            # One that has ended may still be told something.
            if session is not None:
                session.take(body)
        elif kind == REFUSED:
            refusal = _refusal(body)
            if number == 0:
                raise refusal
            if session is not None:
                session.lose(refusal)
        elif kind == HELLO:
            self._start_beating(body)
        elif kind != BEAT:
            raise ValueError(f"a frame of kind {kind}")

    def _start_beating(self, body: bytes) -> None:
        heartbeat = HEARTBEAT.unpack(body)[0] if len(body) == HEARTBEAT.size else 0.0
        if not LEAST_HEARTBEAT <= heartbeat <= threading.TIMEOUT_MAX:
            raise ValueError(f"a heartbeat of {heartbeat} s")
        self._patience = heartbeat
        self._beat_at = time.monotonic() + heartbeat / 3

    def _lose(self, failure: ControlError) -> None:
        with self._lock:
            self._failure = failure
            sessions = list(self._sessions.values())
        for session in sessions:
            session.lose(failure)


def _connect(address: str, timeout: float) -> socket.socket:
    if not address.startswith(SCHEME):
        raise ConnectionLost(f"{address!r} is no address of a controller's pipe (legal: {SCHEME}NAME)")
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Python's own timeout does not wait for a place in the queue of a Unix socket.
    seconds, part = divmod(max(timeout, 0.001), 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, TIMEVAL.pack(int(seconds), int(part * 1_000_000)))
    try:
        connection.connect(f"\0{address.removeprefix(SCHEME)}")
    except OSError as error:
        connection.close()
        raise ConnectionLost(f"the controller at {address} cannot be reached: {error.strerror or error}") from error
    return connection


def _refusal(body: bytes) -> SessionRefused:
    try:
        content = json.loads(body)
        return SessionRefused(str(content["kind"]), str(content["reason"]))
    except (RecursionError, KeyError, TypeError) as error:
        raise ValueError(f"a refusal that is none: {body[:100]!r}") from error
