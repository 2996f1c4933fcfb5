"""The side that connects: tries until the peer is there or will not have us, and again when the connection broke."""

import asyncio
from collections.abc import Collection, Iterator
from math import inf
from random import Random
from typing import Any, Protocol

import grpc
import grpc.aio

from transports.errors import AddressError, ProtocolError, Refused, TransportError
from transports.grpc_channel import frames
from transports.grpc_channel.channel import GrpcChannel
from transports.grpc_channel.host import Hello, HostOwner
from transports.grpc_channel.link import Link
from transports.grpc_channel.stream import STREAM_ERRORS, Instance

_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 0.5
_LONGEST_PAUSE_AGAIN = 2.0
_HANG_UP_TIMEOUT = 2.0
_MAY_PASS = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
}
"""Refusals that can end by themselves: the peer starts, or has not noticed yet that our last connection broke."""
_MAY_PASS_AGAIN = _MAY_PASS | {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAUTHENTICATED}
"""The same for a peer that we were connected with: it is starting anew, or its port went to another job meanwhile."""


class _NotYet(Exception):
    """An attempt to connect that failed, for a reason that may pass."""

    def __init__(self, reason: str, refusal: Refused | None = None) -> None:
        super().__init__(reason)
        self.refusal = refusal


class _Late(Exception):
    """There was no connection within the time to join."""

    def __init__(self, error: TransportError) -> None:
        super().__init__(str(error))
        self.error = error


def _pauses(longest: float, seed: str) -> Iterator[float]:
    """Seconds between attempts: growing, and different for each worker, so that they do not all come at once."""
    jitter = Random(seed)  # noqa: S311 - spreads, hides nothing
    pause = _FIRST_PAUSE
    while True:
        yield pause * jitter.uniform(0.5, 1.0)
        pause = min(2 * pause, longest)


class DialOwner(HostOwner, Protocol):
    """What the connecting side needs of its endpoint."""

    addresses: dict[str, str]

    def next_instance(self) -> Instance:
        """Which process this is, with a number larger than all before."""


class Dialler:
    """Connects an endpoint to the peers that listen."""

    def __init__(self, owner: DialOwner) -> None:
        self._owner = owner
        self._wires: dict[tuple[str, str], grpc.aio.Channel] = {}
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._endings: set[asyncio.Task[None]] = set()
        self._stopping = False

    def dial(self, channel: GrpcChannel, end: str) -> None:
        """Be connected to `end` from now on, in the background."""
        key = channel.spec.name, end
        if key not in self._tasks and end not in channel.links and not self._stopping:
            task = self._tasks[key] = asyncio.create_task(self._serve(channel, end))
            task.add_done_callback(lambda done: self._tasks.pop(key) if self._tasks.get(key) is done else None)

    def drop(self, end: str) -> None:
        """Try no longer to be connected to `end`, at the address where it was. Its links were cut before."""
        for key in [key for key in self._tasks if key[1] == end]:
            task = self._tasks.pop(key)
            task.cancel()
            ending = asyncio.create_task(_finish(task, self._wires.pop(key, None)))
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)

    def hold(self) -> None:
        """Begin no connection any more."""
        self._stopping = True
        for (name, end), task in self._tasks.items():
            if end not in self._owner.channels[name].links:
                task.cancel()

    async def stop(self, grace: float) -> None:
        """Let links that said goodbye end within `grace` seconds, break off the others."""
        self.hold()
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=grace)
        rest = list(self._tasks.values())
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, *self._endings, return_exceptions=True)
        for wire in self._wires.values():
            await wire.close()

    async def _serve(self, channel: GrpcChannel, end: str) -> None:
        """Connect, again and again, until `end` says goodbye or will not have us."""
        again = False
        while self._wanted(channel, end):
            try:
                call, machine = await self._connect(channel, end, again=again)
            except _Late as late:
                channel.miss(end, late.error)
            except TransportError as error:
                if self._wanted(channel, end):
                    channel.give_up_on(end, error)
                return
            else:
                if not self._wanted(channel, end):
                    call.cancel()
                elif not await self._use(channel, end, call, machine):
                    return
            again = True

    def _wanted(self, channel: GrpcChannel, end: str) -> bool:
        """Whether this task is still the one that connects; to be asked after each wait, as gRPC may swallow a cancellation."""
        return not self._stopping and self._tasks.get((channel.spec.name, end)) is asyncio.current_task()

    async def _use(self, channel: GrpcChannel, end: str, call: Any, machine: str) -> bool:
        """Exchange messages until the stream is over; whether it broke."""
        checked, shared = self._owner.wants_checksum(self._owner.addresses[end]), channel.shares_with(machine)
        link = Link(self._owner, channel, end, call, channel.detach, checked=checked, shared=shared)
        channel.attach(link)
        try:
            await link.run()
        finally:
            if link.cut_off:
                call.cancel()
            else:
                await _hang_up(call)
        return not (link.final or link.leaving)

    async def _connect(self, channel: GrpcChannel, end: str, *, again: bool) -> tuple[Any, str]:
        """A stream to `end` that is welcome there, and the machine of `end`.

        Raises:
            Refused: `end` will not have us, or we cannot have it.
            _Late: it could not be reached within the time to join; where it was connected before, there is no end.
        """
        clock, patience = asyncio.get_running_loop().time, self._owner.join_timeout
        deadline = inf if again else clock() + patience
        last = _NotYet("no answer")
        for pause in _pauses(_LONGEST_PAUSE_AGAIN if again else _LONGEST_PAUSE, f"{self._owner.name} {end}"):
            left = min(deadline - clock(), patience)
            if not self._wanted(channel, end):
                raise asyncio.CancelledError
            if left <= 0:
                break
            try:
                return await self._attempt(channel, end, left, _MAY_PASS_AGAIN if again else _MAY_PASS)
            except TimeoutError:
                pass  # says less than the attempts before
            except _NotYet as reason:
                last = reason
            await asyncio.sleep(min(pause, max(0.0, deadline - clock())))
        where = f"{end} could not be reached at {self._owner.addresses[end]} for {channel}"
        raise _Late(last.refusal or AddressError(f"{where} within {patience:g} s: {last}"))

    async def _attempt(
        self, channel: GrpcChannel, end: str, seconds: float, passing: Collection[grpc.StatusCode]
    ) -> tuple[Any, str]:
        address, call, machine = self._owner.addresses[end], None, None
        try:
            async with asyncio.timeout(seconds):
                call = await self._call(channel, end, address)
                machine = await self._be_welcomed(call, end)
        except grpc.aio.AioRpcError as error:
            refusal = Refused(f"{end} at {address} refused {self._owner.name}: {error.details()}")
            if error.code() not in passing:
                raise refusal from error
            raise _NotYet(str(error.details()), refusal if error.code() is grpc.StatusCode.ALREADY_EXISTS else None) from error
        except (ProtocolError, AddressError) as error:
            raise _NotYet(str(error)) from error
        finally:
            if call is not None and machine is None:
                call.cancel()
        if (reason := channel.why_not(end, machine)) is not None:
            call.cancel()
            raise Refused(reason)
        return call, machine

    async def _call(self, channel: GrpcChannel, end: str, address: str) -> Any:
        # A connection of its own for each attempt: who listens there is judged anew each time.
        key, security = (channel.spec.name, end), self._owner.security
        if (old := self._wires.pop(key, None)) is not None:
            await old.close()
        wire = self._wires[key] = await security.connect(
            address, end, frames.stream_options(self._owner.limits, self._owner.heartbeat)
        )
        hello = Hello(
            token=self._owner.token,
            version=str(frames.VERSION),
            channel=channel.spec.name,
            group=channel.spec.group,
            name=self._owner.name,
            machine=channel.machine,
            instance=self._owner.next_instance(),
        )
        metadata = (*hello.metadata(), *security.metadata(end))
        return wire.stream_stream(f"/{frames.SERVICE}/{frames.METHOD}")(metadata=metadata)

    async def _be_welcomed(self, call: Any, end: str) -> str:
        data = await call.read()
        if not isinstance(data, bytes):
            raise ProtocolError("the stream ended without a welcome")
        welcome = frames.parse_frame(data, self._owner.limits).welcome
        if welcome.name != end or welcome.version != frames.VERSION:
            raise ProtocolError(f"{welcome.name!r} (protocol {welcome.version}) listens there")
        machine: str = welcome.machine
        return machine


async def _finish(task: asyncio.Task[None], wire: grpc.aio.Channel | None) -> None:
    await asyncio.gather(task, return_exceptions=True)
    if wire is not None:
        await wire.close()


async def _hang_up(call: Any) -> None:
    """End the stream so that the other side sees an end, not a break; where that fails, it is broken anyway."""
    try:
        async with asyncio.timeout(_HANG_UP_TIMEOUT):
            await call.done_writing()
            while isinstance(await call.read(), bytes):
                pass
    except (*STREAM_ERRORS, TimeoutError):
        call.cancel()
    except asyncio.CancelledError:
        call.cancel()
        raise
