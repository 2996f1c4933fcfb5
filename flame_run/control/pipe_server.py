"""The controller on a Unix socket: one connection per process of workers, one thread for all of them."""

import contextlib
import logging
import os
import resource
import secrets
import selectors
import socket
import struct
import threading
import time
from dataclasses import dataclass
from math import inf

from flame_run.control.controller import Controller
from flame_run.control.errors import ControlError, ControlTimeout, SessionRefused
from flame_run.control.pipe_frames import RECEIVE, SCHEME, Outgoing
from flame_run.control.pipe_peer import PipePeer

log = logging.getLogger(__name__)
NO_ENTRY = 1.0
"""Seconds without new connections after one could not be taken: this process has no files left."""
BACKLOG = 1024
"""Connections that may wait to be taken."""
HANDSHAKE = 10.0
"""Seconds that a connection may take until it has shown the job token."""
FEWEST, MOST = 64, 2**16
"""Connections: at least and at most, and half of the files that this process may open where that lies between."""
CREDENTIALS = struct.Struct("3i")
"""Process, user and group of the other end."""
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
ENDED = "the controller of the job has ended"


@dataclass(eq=False, slots=True)
class _Connection:
    socket: socket.socket
    peer: PipePeer
    heard_at: float
    """`time.monotonic()` seconds; of a stranger, when it connected."""
    watched: int = READ


class PipeServer:
    """Serves `controller` on a Unix socket, to processes of our own user, until `stop`.

    Args:
        controller: takes what the sessions report.
        heartbeat: seconds; all sessions of a process that is silent for longer are lost. Processes send a sign of life
            three times as often.
    """

    def __init__(self, controller: Controller, *, heartbeat: float) -> None:
        self._controller = controller
        self._heartbeat = heartbeat
        self._connections: set[_Connection] = set()
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = max(FEWEST, min(files // 2, MOST))
        self._thread: threading.Thread | None = None
        self._ends_at: float | None = None
        self._look_at = inf
        """When somebody may have been silent for too long."""
        self._closed_until = inf
        """When connections are taken again; infinity while they are."""
        self.address = ""
        """`unix:@NAME` once started."""

    def start(self) -> str:
        """Listen; returns the address, `unix:@NAME`.

        Raises:
            ControlError: it cannot listen.
        """
        name = f"flame-run-{secrets.token_hex(16)}"
        try:
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._listener.bind(f"\0{name}")
            self._listener.listen(BACKLOG)
            self._waker, self._woken = socket.socketpair()
        except OSError as error:
            raise ControlError(f"the controller cannot listen on {SCHEME}{name}: {error}") from error
        for each in (self._listener, self._waker, self._woken):
            each.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._woken, READ)
        self._selector.register(self._listener, READ)
        self._thread = threading.Thread(target=self._run, name="flame-run-pipes", daemon=True)
        self.address = f"{SCHEME}{name}"
        self._thread.start()
        return self.address

    def stop(self, timeout: float = 5.0) -> None:
        """Tell every session to stop, end it and free the address, within about `timeout` seconds. Idempotent.

        Raises:
            ControlTimeout: the server is stuck.
        """
        if self._thread is None:
            return
        thread, self._thread = self._thread, None
        self._controller.abort(ENDED)
        # Sessions that have said goodbye are over; the others are cut off after the grace.
        self._ends_at = time.monotonic() + min(1.0, timeout / 4)
        self._wake()
        thread.join(timeout)
        if thread.is_alive():
            raise ControlTimeout(f"ending the controller's sessions on {self.address} took longer than {timeout:g} s")

    def _wake(self) -> None:
        # A full socket wakes the thread as well as one more byte; a closed one has none to wake.
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")

    # -- in the thread

    def _run(self) -> None:
        try:
            while not self._over():
                for key, _ in self._selector.select(self._pause()):
                    if key.data is not None:
                        self._serve(key.data)
                    elif key.fileobj is self._listener:
                        self._accept()
                    else:
                        self._woken.recv(RECEIVE)
                        self._watch_all()
                self._keep_up()
        finally:
            for connection in list(self._connections):
                self._drop(connection, ENDED)
            self._selector.close()
            for each in (self._listener, self._waker, self._woken):
                each.close()

    def _over(self) -> bool:
        if self._ends_at is None:
            return False
        seated = any(connection.peer.seated for connection in self._connections)
        return not seated or time.monotonic() >= self._ends_at

    def _pause(self) -> float | None:
        """Seconds until there is something to do unasked; None: only when somebody comes."""
        until = min(self._look_at, self._closed_until, self._ends_at or inf)
        return None if until == inf else max(0.0, until - time.monotonic())

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            # Whoever waits would wake this thread without end.
            log.warning("nobody can connect to %s for %g s: %s", self.address, NO_ENTRY, error.strerror)
            self._selector.unregister(self._listener)
            self._closed_until = time.monotonic() + NO_ENTRY
            return
        connection.setblocking(False)
        pid, user, _ = CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
        if user != os.geteuid():
            self._controller.refuse("token", f"process {pid} of user {user} may not connect to a job of user {os.geteuid()}")
        elif len(self._connections) >= self._most:
            self._controller.refuse("taken", f"process {pid} comes after {self._most} connections")
        else:
            outgoing = Outgoing(connection, self._wake)
            peer = PipePeer(self._controller, f"process {pid}", heartbeat=self._heartbeat, outgoing=outgoing)
            added = _Connection(connection, peer, time.monotonic())
            self._connections.add(added)
            self._selector.register(connection, READ, added)
            self._look_at = min(self._look_at, self._deadline(added))
            return
        connection.close()

    def _serve(self, connection: _Connection) -> None:
        """Take what came, send what waits."""
        if connection.peer.outgoing.congested:
            connection.peer.outgoing.flush()
        try:
            data = connection.socket.recv(RECEIVE)
        except BlockingIOError:
            self._watch(connection)
            return
        except OSError as error:
            self._drop(connection, f"the connection of its process broke: {error.strerror}")
            return
        if not data:
            self._drop(connection, "the connection of its process ended without a goodbye")
            return
        try:
            connection.peer.take(data)
        except SessionRefused as refusal:
            self._drop(connection, str(refusal))
            return
        if connection.peer.greeted:
            connection.heard_at = time.monotonic()
        self._watch(connection)

    def _watch_all(self) -> None:
        for connection in self._connections:
            self._watch(connection)

    def _watch(self, connection: _Connection) -> None:
        wanted = READ | WRITE if connection.peer.outgoing.congested else READ
        if wanted != connection.watched:
            self._selector.modify(connection.socket, wanted, connection)
            connection.watched = wanted

    def _deadline(self, connection: _Connection) -> float:
        patience = self._heartbeat if connection.peer.greeted else min(self._heartbeat, HANDSHAKE)
        return connection.heard_at + patience

    def _keep_up(self) -> None:
        """Do what is due: end silent connections, take new ones again."""
        now = time.monotonic()
        if now >= self._closed_until:
            self._closed_until = inf
            self._selector.register(self._listener, READ)
        if now < self._look_at:
            return
        for connection in [each for each in self._connections if self._deadline(each) <= now]:
            self._drop(connection, str(connection.peer.silent()))
        self._look_at = min(map(self._deadline, self._connections), default=inf)

    def _drop(self, connection: _Connection, reason: str) -> None:
        self._connections.remove(connection)
        self._selector.unregister(connection.socket)
        connection.socket.close()
        connection.peer.lost(reason)
