"""The processes of one launch of `launcher=local`: started, watched, started again and ended by one thread."""

import os
import queue
import selectors
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf

from hydra.core.utils import JobReturn

from flame_run.launch.compose import JobConfig
from flame_run.launch.errors import LaunchError
from flame_run.launch.forkserver import SERVERS, ForkServer
from flame_run.launch.job import exit_status, read_results
from flame_run.launch.linux import describe_exit
from flame_run.launch.member import Member
from flame_run.launch.notices import Kind, Notice, receive
from flame_run.launch.turns import LONG, NOBODY, OF, LongTurns

Observer = Callable[[int, int, str], None]
"""Called with the index of a job, its process id and what happened: `started`, `exit 3`, `killed by SIGKILL`.

The death of a process that jobs share is told of the job first that had the turn, in these words; then of the others, with
its label: `exit 3 of trainer-3`; or `exit 3 of nobody`, where nobody had it. A job whose turn is long: `long turn: 60`, seconds.
"""
_KILL_TIMEOUT = 2.0
"""Seconds that the fork server has to kill its workers before it is killed itself, which kills them too."""
_WINDOW = 16
"""Fork requests on their way at once: few enough that neither side ever waits for room in the socket."""


class Crew:
    """The processes of one launch, followed by one thread; `kill`, `kill_one`, `restart` and `release` may come from any other.

    Args:
        jobs: what is to be run.
        hands: the jobs of each process, by their indices.
        payload: descriptor of what all share, see `write_payload`.
        preload: modules that the fork server imports.
        import_timeout: longest wait for them, seconds.
        observer: told of every start and end of a process, from the thread in `run`.
        held: whether `run` lasts until `release` or `kill`, so that jobs can be started again.
        long_turn: seconds after which a turn in a shared process is a long one, see `LongTurns`; None: none is.

    """

    def __init__(
        self,
        jobs: Sequence[JobConfig],
        hands: Sequence[tuple[int, ...]],
        payload: int,
        *,
        preload: Sequence[str],
        import_timeout: float,
        observer: Observer | None,
        held: bool = False,
        long_turn: float | None = None,
    ) -> None:
        self._members = [Member(number, {index: jobs[index] for index in hand}) for number, hand in enumerate(hands)]
        self._count = len(jobs)
        self._waiting = list(self._members[::-1])
        self._running: dict[int, Member] = {}
        self._unconfirmed = 0
        self._payload = payload
        self._preload = tuple(preload)
        self._import_timeout = import_timeout
        self._observer = observer
        self._held = held
        self._wishes: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._doomed = False
        self._deadline = inf
        self._long_turns = None if long_turn is None or all(len(hand) == 1 for hand in hands) else LongTurns(long_turn)

    def kill(self) -> None:
        """Ask the thread in `run` to kill all; this and the next three are to be called before `close`."""
        self._ask("kill")

    def kill_one(self, index: int) -> None:
        """Ask for the kill of the process of one job; the others go on."""
        self._ask("kill_one", index)

    def restart(self, index: int) -> None:
        """Ask for another process of a job whose own has ended."""
        self._ask("restart", index)

    def release(self) -> None:
        """Let `run` return once no process is left."""
        self._ask("release")

    def _ask(self, wish: str, index: int = -1) -> None:
        self._wishes.put((wish, index))
        os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Let go of what `kill` needs."""
        os.close(self._wake)

    def run(self) -> list[JobReturn]:
        """Start all jobs, wait for all, return their results in order."""
        server: ForkServer | None = None
        try:
            server = SERVERS.take(self._preload)
            self._deadline = inf if server.ready else time.monotonic() + self._import_timeout
            self._follow(server)
        finally:
            for member in self._members:
                member.close()
            if server is not None:
                self._release(server)
        outcomes: dict[int, JobReturn] = {}
        for member in self._members:
            if not member.outcomes:
                member.die(None)
            outcomes |= zip(member.jobs, member.outcomes, strict=True)
        return [outcomes[index] for index in range(self._count)]

    def _release(self, server: ForkServer) -> None:
        if self._running or not server.ready:
            server.stop()
        else:
            SERVERS.put(server)

    def _follow(self, server: ForkServer) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(server.control, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            while self._waiting or self._running or self._held:
                self._start_some(server)
                ready = {key.fileobj for key, _ in selector.select(self._pause())}
                if self._wake in ready:
                    self._grant(server)
                if server.control in ready:
                    self._hear(server)
                elif not ready and time.monotonic() >= self._deadline:
                    self._overdue(server)
                self._look_at_turns()

    def _pause(self) -> float | None:
        """Seconds until there is something to do unasked; None: only when somebody speaks."""
        until = self._deadline if self._long_turns is None else min(self._deadline, self._long_turns.due)
        return None if until == inf else max(0.0, until - time.monotonic())

    def _look_at_turns(self) -> None:
        if self._long_turns is None or time.monotonic() < self._long_turns.due:
            return
        turns = {member.number: member.turn for member in self._running.values() if member.shared and member.pid is not None}
        for number, seconds in self._long_turns.look(turns):
            who = turns[number].who
            if who is not None:
                self._tell(who, self._members[number], f"{LONG}{seconds:.0f}")

    def _start_some(self, server: ForkServer) -> None:
        while server.ready and not self._doomed and self._waiting and self._unconfirmed < _WINDOW:
            member = self._waiting.pop()
            member.result = os.memfd_create("flame-run-result")
            ticket = next(server.tickets)
            self._running[ticket] = member
            self._unconfirmed += 1
            # A server that is gone is learnt of by the end of the stream.
            with suppress(OSError):
                Notice(Kind.FORK, ticket, member.number).send(server.control, (self._payload, member.result, 1, 2))

    def _grant(self, server: ForkServer) -> None:
        os.eventfd_read(self._wake)
        while not self._wishes.empty():
            wish, index = self._wishes.get()
            if wish == "kill":
                self._doom(server)
            elif wish == "release":
                self._held = False
            elif wish == "kill_one":
                for ticket in [ticket for ticket, member in self._running.items() if index in member.jobs]:
                    with suppress(OSError):
                        Notice(Kind.KILL, ticket).send(server.control)
            elif wish == "restart" and not self._doomed and self._held:
                # A new member: the end of a process that lingers must not be taken for the end of the new one.
                number = next(member.number for member in self._members if index in member.jobs)
                self._members[number] = Member(number, self._members[number].jobs)
                self._waiting.append(self._members[number])

    def _doom(self, server: ForkServer) -> None:
        if self._doomed:
            return
        self._doomed, self._held = True, False
        for member in self._waiting:
            member.die(None, "the launcher was told to kill all workers")
        self._waiting.clear()
        if self._running:
            self._deadline = time.monotonic() + _KILL_TIMEOUT
            with suppress(OSError):
                Notice(Kind.KILL).send(server.control)

    def _hear(self, server: ForkServer) -> None:
        message = receive(server.control)
        if message is None:
            self._lose(server)
            return
        notice, _ = message
        if notice.kind is Kind.READY:
            server.ready = True
            self._deadline = inf
        elif notice.kind is Kind.BROKEN:
            raise LaunchError(f"the fork server could not import {', '.join(self._preload)}:\n{notice.text}")
        elif notice.kind is Kind.STARTED:
            self._unconfirmed -= 1
            member = self._running[notice.ticket]
            member.pid = notice.first
            # Who shares a process is told by itself when it begins: it may have ended long before the process does.
            if not member.shared:
                self._observe(member, "started")
        elif notice.kind is Kind.REFUSED:
            self._unconfirmed -= 1
            member = self._running.pop(notice.ticket)
            member.die(None, f"it could not be forked: {notice.text}")
        elif notice.kind is Kind.ENDED:
            self._end(self._running.pop(notice.ticket), notice.second)

    def _end(self, member: Member, code: int) -> None:
        holder = member.turn.who
        there = self._take_results(member, code, "by the launcher" if self._doomed else "")
        member.close()
        if not member.shared:
            self._observe(member, describe_exit(code))
        elif there or self._doomed:
            self._observe_jobs(member)
        else:
            member.die_in_turn(code, holder)
            self._observe_death(member, code, holder)

    def _take_results(self, member: Member, code: int, reason: str) -> bool:
        """Take what the process has handed back; whether there was anything."""
        outcomes = None if member.result is None else read_results(member.result)
        if outcomes is None:
            member.die(code, reason)
            return False
        # One for all: the process could not even begin with its jobs.
        member.outcomes = outcomes * len(member.jobs) if len(outcomes) == 1 else outcomes
        return True

    def _lose(self, server: ForkServer) -> None:
        """End all jobs of a server that is gone: the kernel kills its workers, and nobody can tell how each ended."""
        how = server.describe_end()
        if not server.ready:
            raise LaunchError(f"the fork server ended before its imports were done: {how}")
        for member in self._running.values():
            self._take_results(member, -9, f"because the fork server ended: {how}")
            self._observe(member, describe_exit(-9))
        for member in self._waiting:
            member.die(None, f"the fork server ended: {how}")
        self._waiting.clear()
        self._running.clear()
        self._held = False

    def _overdue(self, server: ForkServer) -> None:
        self._deadline = inf
        server.kill()
        if not server.ready:
            modules = ", ".join(self._preload)
            raise LaunchError(f"the fork server has not imported {modules} within import_timeout = {self._import_timeout:g} s")

    def _observe(self, member: Member, what: str) -> None:
        for index in member.jobs:
            self._tell(index, member, what)

    def _observe_jobs(self, member: Member) -> None:
        """How each job of a shared process ended, as if it had had one of its own."""
        for index, outcome in zip(member.jobs, member.outcomes, strict=True):
            self._tell(index, member, describe_exit(exit_status(outcome)))

    def _observe_death(self, member: Member, code: int, holder: int | None) -> None:
        """Who had the turn comes first: a loss that ends the job is told in its name."""
        how, label = describe_exit(code), NOBODY if holder is None else member.jobs[holder].label
        if holder is not None:
            self._tell(holder, member, how)
        for index in sorted(member.jobs.keys() - {holder}):
            self._tell(index, member, f"{how}{OF}{label}")

    def _tell(self, index: int, member: Member, what: str) -> None:
        if self._observer is not None and member.pid is not None:
            self._observer(index, member.pid, what)
