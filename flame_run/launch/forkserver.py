"""The runner's side of the fork server: starting it, keeping it for the next launch, ending it."""

import atexit
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence

from flame_run.launch.errors import LaunchError
from flame_run.launch.linux import describe_exit

_STOP_TIMEOUT = 10.0
"""Seconds within which a killed process has to be gone."""
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**29)}
"""glibc's settings for workers, unless the environment has its own: what a step of training frees stays for the next step.

By default each step may give tens of thousands of pages back and fault them in again: 13 % of a round of mnist-small.
"""
_START = "import sys; sys.path[:] = {path!r}; from flame_run.launch.server import main; main(sys.argv[1])"


class ForkServer:
    """A process that imports `preload` and then forks workers; see `flame_run.launch.server`.

    It starts at once and in the background. It dies with this process, even while it imports.
    """

    def __init__(self, preload: Sequence[str]) -> None:
        self.preload = tuple(preload)
        self.owner = os.getpid()
        self.ready = False
        """Whether it has said that its imports are done; set by the launch that reads its messages."""
        self.tickets = itertools.count(1)
        """Names for jobs, never used twice on one server."""
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process: subprocess.Popen[bytes] | None = None
        self._failure: OSError | None = None
        self._spawned = threading.Event()
        # The server's parent-death signal is bound to the thread that started it: this one lives as long as the server.
        self._keeper = threading.Thread(target=self._keep, args=(theirs,), name="fork-server-keeper", daemon=True)
        self._keeper.start()

    def _keep(self, theirs: socket.socket) -> None:
        options = json.dumps({"runner": os.getpid(), "control": theirs.fileno(), "preload": self.preload})
        path = [os.path.abspath(entry) for entry in sys.path]  # noqa: PTH100 - of a text, an empty one too
        try:
            with theirs:
                self._process = subprocess.Popen(  # noqa: S603 - our own interpreter
                    [sys.executable, "-c", _START.format(path=path), options],
                    env={**_ALLOCATOR, **os.environ},
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    process_group=0,
                )
        except OSError as error:
            self._failure = error
            return
        finally:
            self._spawned.set()
        self._process.wait()

    @property
    def alive(self) -> bool:
        """Whether it runs, or is about to, as a child of this very process."""
        return self._keeper.is_alive() and self.owner == os.getpid()

    @property
    def pid(self) -> int | None:
        """Its process id; None where it could not be started."""
        self._spawned.wait(_STOP_TIMEOUT)
        return self._process.pid if self._process else None

    def kill(self) -> None:
        """Send it SIGKILL; the kernel then kills all of its workers."""
        self._spawned.wait(_STOP_TIMEOUT)
        if self._process is not None:
            self._process.kill()

    def stop(self) -> None:
        """Kill it and wait until it is gone. Idempotent.

        Raises:
            LaunchError: it is still there after ten seconds.

        """
        if self.owner != os.getpid():
            self.control.close()
            return
        self.kill()
        self._keeper.join(_STOP_TIMEOUT)
        self.control.close()
        if self._keeper.is_alive():
            raise LaunchError(f"the fork server (process {self.pid}) is still there {_STOP_TIMEOUT:g} s after SIGKILL")

    def describe_end(self) -> str:
        """How it ended, in words; to be asked after its side of `control` was closed."""
        self._keeper.join(_STOP_TIMEOUT)
        if self._failure is not None:
            return f"could not be started: {self._failure}"
        if self._process is None or self._process.returncode is None:
            return "closed its connection"
        return describe_exit(self._process.returncode)


class ForkServers:
    """The idle fork servers of this process, so that one launch after another can use the same imports.

    A launch takes a server out and puts it back when all of its workers are gone: never two launches on one server.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[ForkServer] = []
        self._registered = False

    def take(self, preload: Sequence[str]) -> ForkServer:
        """Take out an idle server with these imports, else start a new one; its imports may still be going on."""
        with self._lock:
            self._drop_dead()
            for server in self._idle:
                if server.preload == tuple(preload):
                    self._idle.remove(server)
                    return server
            if not self._registered:
                # Otherwise the interpreter would complain, at its end, of a process still running.
                atexit.register(self.stop)
                self._registered = True
        return ForkServer(preload)

    def put(self, server: ForkServer) -> None:
        """Keep `server` for the next launch if it is alive."""
        with self._lock:
            self._idle.append(server)
            self._drop_dead()

    def _drop_dead(self) -> None:
        for server in [each for each in self._idle if not each.alive]:
            self._idle.remove(server)
            server.control.close()

    def stop(self) -> None:
        """End every idle server and wait until it is gone."""
        with self._lock:
            servers, self._idle = self._idle, []
        for server in servers:
            server.stop()


SERVERS = ForkServers()
"""A warm fork server belongs to the process, as its children do: the runs of a sweep share nothing else that could hold it."""
