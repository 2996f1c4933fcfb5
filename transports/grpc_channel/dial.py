"""The side that connects: tries until the peer is there, is told why not, or the time is over."""

import asyncio
from typing import Any, Protocol

import grpc
import grpc.aio

from transports.errors import AddressError, ProtocolError, Refused, TransportError
from transports.grpc_channel import frames
from transports.grpc_channel.channel import GrpcChannel
from transports.grpc_channel.host import Hello, HostOwner
from transports.grpc_channel.link import Link
from transports.grpc_channel.stream import STREAM_ERRORS

_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 0.5
_HANG_UP_TIMEOUT = 2.0
_MAY_PASS = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
}
"""Refusals that can end by themselves: the peer starts, or has not noticed yet that our last connection broke."""


class DialOwner(HostOwner, Protocol):
    """What the connecting side needs of its endpoint."""

    addresses: dict[str, str]


class Dialler:
    """Connects an endpoint to the peers that listen."""

    def __init__(self, owner: DialOwner) -> None:
        self._owner = owner
        self._wires: dict[str, grpc.aio.Channel] = {}
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}

    def dial(self, channel: GrpcChannel, end: str) -> None:
        """Connect to `end` in the background, unless that is done or under way."""
        key = channel.spec.name, end
        if key not in self._tasks and end not in channel.links:
            task = self._tasks[key] = asyncio.create_task(self._serve(channel, end))
            task.add_done_callback(lambda _: self._tasks.pop(key, None))

    async def stop(self, grace: float) -> None:
        """Let links that said goodbye end within `grace` seconds, break off the others."""
        linked = [task for (name, end), task in self._tasks.items() if end in self._owner.channels[name].links]
        for task in set(self._tasks.values()) - set(linked):
            task.cancel()
        if linked:
            await asyncio.wait(linked, timeout=grace)
        rest = list(self._tasks.values())
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        for wire in self._wires.values():
            await wire.close()

    async def _serve(self, channel: GrpcChannel, end: str) -> None:
        try:
            call, machine = await self._connect(channel, end)
        except TransportError as error:
            channel.give_up_on(end, error)
            return
        checked, shared = self._owner.wants_checksum(self._owner.addresses[end]), channel.shares_with(machine)
        link = Link(self._owner, channel, end, call, channel.detach, checked=checked, shared=shared)
        channel.attach(link)
        try:
            await link.run()
        finally:
            await _hang_up(call)

    async def _connect(self, channel: GrpcChannel, end: str) -> tuple[Any, str]:
        """A stream to `end` that is welcome there, and the machine of `end`."""
        clock = asyncio.get_running_loop().time
        deadline, pause, last = clock() + self._owner.join_timeout, _FIRST_PAUSE, "no answer"
        refusal: Refused | None = None
        while (left := deadline - clock()) > 0:
            address = self._owner.addresses[end]
            call = self._call(channel, address)
            try:
                machine = await asyncio.wait_for(self._be_welcomed(call, end), left)
            except TimeoutError:
                call.cancel()
                break
            except grpc.aio.AioRpcError as error:
                refusal = Refused(f"{end} at {address} refused {self._owner.name}: {error.details()}")
                if error.code() not in _MAY_PASS:
                    raise refusal from error
                if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                    refusal = None
                last = f"{error.details()}"
            except ProtocolError as error:
                call.cancel()
                last = str(error)
            else:
                if (reason := channel.why_not(end, machine)) is not None:
                    call.cancel()
                    raise Refused(reason)
                return call, machine
            await asyncio.sleep(min(pause, max(0.0, deadline - clock())))
            pause = min(2 * pause, _LONGEST_PAUSE)
        where = f"{end} could not be reached at {self._owner.addresses[end]} for {channel}"
        raise refusal or AddressError(f"{where} within {self._owner.join_timeout:g} s: {last}")

    def _call(self, channel: GrpcChannel, address: str) -> Any:
        if address not in self._wires:
            self._wires[address] = grpc.aio.insecure_channel(address, options=frames.stream_options(self._owner.limits))
        hello = Hello(
            token=self._owner.token,
            version=str(frames.VERSION),
            channel=channel.spec.name,
            group=channel.spec.group,
            name=self._owner.name,
            machine=channel.machine,
        )
        return self._wires[address].stream_stream(f"/{frames.SERVICE}/{frames.METHOD}")(metadata=hello.metadata())

    async def _be_welcomed(self, call: Any, end: str) -> str:
        data = await call.read()
        if not isinstance(data, bytes):
            raise ProtocolError("the stream ended without a welcome")
        welcome = frames.parse_frame(data).welcome
        if welcome.name != end or welcome.version != frames.VERSION:
            raise ProtocolError(f"{welcome.name!r} (protocol {welcome.version}) listens there")
        machine: str = welcome.machine
        return machine


async def _hang_up(call: Any) -> None:
    """End the stream so that the other side sees an end, not a break; where that fails, it is broken anyway."""
    try:
        await call.done_writing()
        while isinstance(await asyncio.wait_for(call.read(), _HANG_UP_TIMEOUT), bytes):
            pass
    except (*STREAM_ERRORS, TimeoutError, asyncio.CancelledError):
        call.cancel()
