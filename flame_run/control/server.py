"""The controller on the network: one gRPC stream per worker, one event loop for all of them."""

import asyncio
import contextlib
import resource
from typing import Any

import grpc
import grpc.aio

from flame_run.control import control_pb2 as pb
from flame_run.control import wire
from flame_run.control.controller import Controller
from flame_run.control.errors import ControlError, SessionRefused
from flame_run.control.loop import LoopThread, call
from flame_run.control.orders import Deliver, Order, Received
from flame_run.control.seat import Seat
from transports.grpc_channel.security import Clear, Security

Context = grpc.aio.ServicerContext[bytes, bytes]
HANDSHAKE = 10.0
"""Seconds that a connection may take until it can be spoken on."""
HEARD_OUT = 16
"""Strangers at a time that may finish their first message before they are told that they are refused."""
STREAMS = 16
"""On one connection; a session uses one."""
FEWEST, MOST = 64, 2**20
"""Connections: at least and at most, and half of the files that this process may open where that lies between."""
METADATA = 16 * 1024
"""Bytes."""
ACKNOWLEDGED = 16
"""Reports after which a session learns that they have been taken; it learns so with every heartbeat too."""


class ControlServer:
    """Serves `controller` until `stop`.

    Args:
        controller: takes what the sessions report.
        host: address to listen on; loopback by default.
        port: 0 for any free one.
        heartbeat: seconds; a session silent for longer is lost, and so is one whose connection broke and does not come
            back within that time. Sessions send a sign of life three times as often.
        security: protects the connections; default none but the token. Its maker closes it.
    """

    def __init__(
        self,
        controller: Controller,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        heartbeat: float = 30.0,
        security: Security | None = None,
    ) -> None:
        self._security = security or Clear()
        self._controller = controller
        self._host = f"[{host}]" if ":" in host else host
        self._port = port
        self._heartbeat = heartbeat
        self._loop: LoopThread | None = None
        self._server: grpc.aio.Server | None = None
        self._heard_out = 0
        self.address = ""
        """`host:port` once started."""

    def start(self, timeout: float = 10.0) -> str:
        """Listen; returns `host:port`.

        Raises:
            ControlError: the address cannot be listened on.
        """
        self._loop = LoopThread("flame-run-control")
        try:
            port = call(self._loop.loop, self._start(), timeout, "starting the controller")
        except (RuntimeError, ControlError) as error:
            self._loop.close()
            raise ControlError(f"the controller cannot listen on {self._host}:{self._port}: {error}") from error
        self.address = f"{self._host}:{port}"
        return self.address

    def stop(self, timeout: float = 5.0) -> None:
        """Tell every session to stop, end it and free the port, within about `timeout` seconds. Idempotent.

        Raises:
            ControlTimeout: the server is stuck.
        """
        if self._loop is None:
            return
        loop, self._loop = self._loop, None
        self._controller.abort("the controller of the job has ended")
        try:
            if self._server is not None:
                # Sessions that have said goodbye end by themselves; the others are cut off after the grace.
                call(loop.loop, self._server.stop(min(1.0, timeout / 4)), timeout, "ending the controller's sessions")
        finally:
            loop.close(timeout)

    async def _start(self) -> int:
        server = grpc.aio.server(options=self._options())
        method: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(self._session)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(wire.SERVICE, {wire.METHOD: method}),))
        port = self._security.listen(server, f"{self._host}:{self._port}", self._refused)
        await server.start()
        self._server = server
        return port

    def _refused(self, what: str) -> None:
        self._controller.refuse("certificate", what)

    def _options(self) -> list[tuple[str, Any]]:
        patience = max(1, int(min(self._heartbeat, HANDSHAKE) * 1000))
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return [
            # What strangers can hold: a connection is dropped that does not get as far as a stream.
            ("grpc.http2.settings_timeout", patience),
            ("grpc.max_connection_idle_ms", patience),
            ("grpc.max_concurrent_streams", STREAMS),
            ("grpc.max_allowed_incoming_connections", max(FEWEST, min(files // 2, MOST))),
            ("grpc.max_metadata_size", METADATA),
            ("grpc.absolute_max_metadata_size", METADATA),
            # Twice what is allowed, so that a message over the limit is seen, counted and named.
            ("grpc.max_receive_message_length", 2 * self._controller.limits.max_report_bytes),
            ("grpc.max_send_message_length", self._controller.limits.max_order_bytes),
            ("grpc.so_reuseport", 0),
            ("grpc.keepalive_time_ms", int(self._heartbeat * 1000)),
            ("grpc.keepalive_timeout_ms", int(self._heartbeat * 1000)),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
            ("grpc.http2.max_ping_strikes", 0),
            ("grpc.server_handshake_timeout_ms", patience),
        ]

    async def _session(self, _: object, context: Context) -> None:
        try:
            await self._serve(context)
        except SessionRefused as refusal:
            await context.abort(grpc.StatusCode[wire.STATUS[refusal.kind]], str(refusal))

    async def _serve(self, context: Context) -> None:
        orders: asyncio.Queue[Order | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def deliver(order: Order) -> None:
            # The loop ends with the server; an order after that has nobody left to reach.
            if not loop.is_closed():
                loop.call_soon_threadsafe(orders.put_nowait, order)

        seat = await self._admit(context, deliver)
        if seat is None:
            return
        writer = asyncio.create_task(self._write(context, orders))
        try:
            if await self._read(context, seat, deliver):
                orders.put_nowait(None)
                await writer
        except SessionRefused as refusal:
            if self._controller.detach(seat, deliver):
                seat.lost(str(refusal))
            raise
        finally:
            writer.cancel()
            self._hold(seat, deliver)
            with contextlib.suppress(asyncio.CancelledError, grpc.aio.AbortError, grpc.aio.UsageError):
                await writer

    async def _admit(self, context: Context, deliver: Deliver) -> Seat | None:
        metadata = dict(context.invocation_metadata() or ())
        peer = context.peer()
        token = str(metadata.get(wire.TOKEN_KEY, ""))
        try:
            if (reason := self._security.why_not(context)) is not None:
                raise self._controller.refuse("certificate", f"{peer}: {reason}")
            self._controller.authenticate(token, peer)
        except SessionRefused:
            await self._hear_out(context)
            raise
        report = await self._receive(context, peer)
        if report is None or report.WhichOneof("body") != "register":
            raise self._controller.refuse("malformed", f"{peer} did not register first")
        hello = report.register
        if (reason := self._security.why_not(context, hello.worker)) is not None:
            raise self._controller.refuse("certificate", f"{peer}: {reason}")
        if self._controller.has_left(hello.worker, hello.session):
            await context.write(wire.farewell())
            return None
        seat = self._controller.register(
            hello.worker,
            token,
            pid=hello.pid,
            host=hello.host,
            deliver=deliver,
            session=hello.session,
            again=hello.again,
            attempt=hello.attempt,
        )
        try:
            await context.write(wire.part(seat.part, self._heartbeat))
            await context.write(wire.order(Received(seat.received)))
        except BaseException:
            self._hold(seat, deliver)
            raise
        return seat

    async def _hear_out(self, context: Context) -> None:
        """Take the first message of somebody who is refused; nobody looks at it.

        A call that ends while its peer still writes loses its reason. Of many at once only a few get that, since each may
        let us hold a whole message.
        """
        if self._heard_out >= HEARD_OUT:
            return
        self._heard_out += 1
        try:
            async with asyncio.timeout(min(self._heartbeat, HANDSHAKE)):
                await context.read()
        except TimeoutError:
            return
        finally:
            self._heard_out -= 1

    def _hold(self, seat: Seat, deliver: Deliver) -> None:
        """Give a seat up if no connection comes back to it in time."""
        number = self._controller.detach(seat, deliver)
        if number:
            reason = f"its connection broke and did not come back within {self._heartbeat:g} s"
            asyncio.get_running_loop().call_later(self._heartbeat, self._controller.expire, seat, number, reason)

    async def _read(self, context: Context, seat: Seat, deliver: Deliver) -> bool:
        """Take reports until the end of the stream; returns whether it ended with a goodbye."""
        while (report := await self._receive(context, seat.worker)) is not None:
            body = report.WhichOneof("body")
            if body == "heartbeat":
                deliver(Received(seat.received))
                continue
            if report.number == 0:
                raise self._controller.refuse("malformed", f"{seat.worker} sent a {body} without a number")
            if not seat.expects(report.number, deliver):
                continue
            if body == "goodbye":
                # In this order: the runner may end as soon as everybody has left, but waits for streams that are ending.
                seat.goodbye()
                return True
            wire.apply_report(report, seat)
            if report.number % ACKNOWLEDGED == 0:
                deliver(Received(seat.received))
        return False

    async def _receive(self, context: Context, who: str) -> pb.Report | None:
        """Wait for the next report; None at the end of the stream."""
        try:
            async with asyncio.timeout(self._heartbeat):
                data = await context.read()
        except TimeoutError:
            raise self._controller.refuse("silent", f"{who} was silent for {self._heartbeat:g} s") from None
        if not isinstance(data, bytes):
            return None
        limit = self._controller.limits.max_report_bytes
        if len(data) > limit + wire.NUMBER_BYTES:
            raise self._controller.refuse("oversized", f"{who} sent a message of {len(data)} bytes (at most {limit})")
        try:
            return wire.parse_report(data)
        except SessionRefused as refusal:
            raise self._controller.refuse("malformed", f"{who} sent {refusal}") from refusal

    @staticmethod
    async def _write(context: Context, orders: "asyncio.Queue[Order | None]") -> None:
        """Send orders, one at a time; None is the farewell, after which nothing follows."""
        while (order := await orders.get()) is not None:
            await context.write(wire.order(order))
        await context.write(wire.farewell())
