"""The fork server: a process that imports once and then forks workers in milliseconds.

Why not `multiprocessing`'s own (Python 3.11): it reruns the main script in every worker, it has no public way to end it or its
resource tracker, it drops import errors, its workers keep the environment of its own start, and workers that are daemons (so
that none outlives the runner) may not have children, which a `DataLoader` with worker processes needs.

It has one thread, which forks every worker, so that the workers' parent-death signal means the end of this process.
"""

import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import traceback
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import NoReturn

from flame_run.launch.linux import die_with_parent
from flame_run.launch.notices import Kind, Notice, receive


def main(options: str) -> None:
    """Import the modules asked for, then fork workers until the runner is gone.

    Args:
        options: JSON object with `runner` (process id), `control` (file descriptor of the socket to it) and `preload` (modules).

    """
    settings = json.loads(options)
    die_with_parent(settings["runner"])
    # Ctrl-C in a terminal is the runner's to handle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    with socket.socket(fileno=settings["control"]) as control:
        control.set_inheritable(False)
        # Nearly all of what is imported stays: to look for rubbish in it again and again takes 0.7 s. Not to look at all leaves
        # holes behind, and what a worker puts into one costs it a page.
        usual = gc.get_threshold()
        gc.set_threshold(50_000, 20, 100)
        failure = _import(settings["preload"])
        gc.set_threshold(*usual)
        if failure:
            Notice(Kind.BROKEN, text=failure).send(control)
            return
        # What the imports want done at the end of the process is this process's to do, not each worker's.
        for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined] # noqa: SLF001 - no public way
            finalizer.atexit = False
        # What is there now lives as long as the process: the collector of a worker then leaves those pages shared.
        gc.collect()
        gc.freeze()
        with selectors.DefaultSelector() as selector:
            Server(control, selector, *socket.socketpair()).serve()


def _import(modules: Sequence[str]) -> str:
    """Import `modules`; the traceback of the first that fails, else an empty text."""
    try:
        for module in modules:
            importlib.import_module(module)
        # Only now: a module to be preloaded may have to come before everything else.
        importlib.import_module("flame_run.launch.job").scan_plugins()
    except BaseException:  # noqa: BLE001 - whatever an import raises is reported to the runner, which raises it
        return traceback.format_exc()
    return ""


@dataclass(slots=True)
class Server:
    """Forks workers on request and tells how each ended."""

    control: socket.socket
    selector: selectors.BaseSelector
    wake: socket.socket
    """Readable when a worker has ended."""
    woken: socket.socket
    tickets: dict[int, int] = field(default_factory=dict)
    """Process id of each living worker -> its ticket."""

    def serve(self) -> None:
        """Work until the runner closes its end; then kill every worker."""
        self.wake.setblocking(False)
        self.woken.setblocking(False)
        signal.signal(signal.SIGCHLD, _notice_nothing)
        signal.set_wakeup_fd(self.woken.fileno(), warn_on_full_buffer=False)
        self.selector.register(self.control, selectors.EVENT_READ)
        self.selector.register(self.wake, selectors.EVENT_READ)
        with suppress(ConnectionError):
            Notice(Kind.READY).send(self.control)
            while self._step():
                pass
        self._kill()

    def _step(self) -> bool:
        """Handle what is there; False when the runner is gone."""
        ready = {key.fileobj for key, _ in self.selector.select()}
        if self.wake in ready:
            self.wake.recv(4096)
            self._reap()
        return self._obey() if self.control in ready else True

    def _obey(self) -> bool:
        message = receive(self.control)
        if message is None:
            return False
        notice, descriptors = message
        if notice.kind is Kind.KILL:
            self._kill(notice.ticket)
        elif notice.kind is Kind.FORK:
            try:
                self._fork(notice, descriptors)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
        return True

    def _fork(self, notice: Notice, descriptors: Sequence[int]) -> None:
        server = os.getpid()
        try:
            child = os.fork()
        except OSError as error:
            Notice(Kind.REFUSED, notice.ticket, text=str(error)).send(self.control)
            return
        if child == 0:
            self._become_worker(server, notice.first, descriptors)
        # Both sides set the group: neither can know which runs first.
        with suppress(PermissionError, ProcessLookupError):
            os.setpgid(child, child)
        self.tickets[child] = notice.ticket
        Notice(Kind.STARTED, notice.ticket, child).send(self.control)

    def _become_worker(self, server: int, number: int, descriptors: Sequence[int]) -> NoReturn:
        """Turn this freshly forked process into the one of hand `number`."""
        code = 1
        try:
            _start_afresh(server)
            # A worker that held these would hide the end of the server from the runner.
            for held in (self.selector, self.control, self.wake, self.woken):
                held.close()
            payload, result, *output = descriptors
            for target, source in enumerate(output, 1):
                os.dup2(source, target)
                os.close(source)
            os.set_inheritable(payload, False)
            os.set_inheritable(result, False)
            from flame_run.launch.job import run_jobs_of_payload  # noqa: PLC0415 - main() imports it, after `preload`

            code = run_jobs_of_payload(payload, result, number)
        except BaseException:  # noqa: BLE001 - the process ends here; nothing of the server may run in it any more
            traceback.print_exc()
        finally:
            try:
                for stream in (sys.stdout, sys.stderr):
                    if stream is not None:
                        stream.flush()
            finally:
                os._exit(code)

    def _reap(self) -> None:
        while self.tickets:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                return
            # The unreaped worker still holds its id, so this cannot hit another group: it ends what the worker left behind.
            _kill_group(ended.si_pid)
            _, status = os.waitpid(ended.si_pid, 0)
            ticket = self.tickets.pop(ended.si_pid, None)
            if ticket is not None:
                Notice(Kind.ENDED, ticket, ended.si_pid, os.waitstatus_to_exitcode(status)).send(self.control)

    def _kill(self, only: int = 0) -> None:
        for process, ticket in self.tickets.items():
            if only in (0, ticket):
                _kill_group(process)


def _kill_group(process: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process, signal.SIGKILL)


def _notice_nothing(_number: int, _frame: FrameType | None) -> None:
    """Let SIGCHLD wake the selector through the wake-up descriptor."""


def _start_afresh(server: int) -> None:
    """Undo in a forked process what is the server's own: signal handling and its process group."""
    signal.set_wakeup_fd(-1)
    die_with_parent(server)
    with suppress(PermissionError):
        os.setpgid(0, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
