"""The controller on the network: one gRPC stream per worker, one event loop for all of them."""

import asyncio
import contextlib
from typing import Any

import grpc
import grpc.aio

from flame_run.control import control_pb2 as pb
from flame_run.control import wire
from flame_run.control.controller import Controller, Order
from flame_run.control.errors import ControlError, SessionRefused
from flame_run.control.loop import LoopThread, call
from flame_run.control.seat import Seat

Context = grpc.aio.ServicerContext[bytes, bytes]


class ControlServer:
    """Serves `controller` until `stop`.

    Args:
        controller: takes what the sessions report.
        host: address to listen on; loopback by default.
        port: 0 for any free one.
        heartbeat: seconds; a session silent for longer is lost. Sessions send a sign of life three times as often.
    """

    def __init__(self, controller: Controller, *, host: str = "127.0.0.1", port: int = 0, heartbeat: float = 30.0) -> None:
        self._controller = controller
        self._host = f"[{host}]" if ":" in host else host
        self._port = port
        self._heartbeat = heartbeat
        self._loop: LoopThread | None = None
        self._server: grpc.aio.Server | None = None
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
        """End every session and free the port, within about `timeout` seconds. Idempotent.

        Raises:
            ControlTimeout: the server is stuck.
        """
        if self._loop is None:
            return
        loop, self._loop = self._loop, None
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
        port = server.add_insecure_port(f"{self._host}:{self._port}")
        await server.start()
        self._server = server
        return port

    def _options(self) -> list[tuple[str, Any]]:
        return [
            # Twice what is allowed, so that a message over the limit is seen, counted and named.
            ("grpc.max_receive_message_length", 2 * self._controller.limits.max_report_bytes),
            ("grpc.max_send_message_length", self._controller.limits.max_order_bytes),
            ("grpc.so_reuseport", 0),
            ("grpc.keepalive_time_ms", int(self._heartbeat * 1000)),
            ("grpc.keepalive_timeout_ms", int(self._heartbeat * 1000)),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
            ("grpc.http2.max_ping_strikes", 0),
        ]

    async def _session(self, _: object, context: Context) -> None:
        try:
            await self._serve(context)
        except SessionRefused as refusal:
            await context.abort(grpc.StatusCode[wire.STATUS[refusal.kind]], str(refusal))

    async def _serve(self, context: Context) -> None:
        orders: asyncio.Queue[Order] = asyncio.Queue()
        seat = await self._admit(context, orders)
        reason = "the connection broke"
        writer = asyncio.create_task(self._write(context, orders))
        try:
            await self._read(context, seat)
        except SessionRefused as refusal:
            reason = str(refusal)
            raise
        finally:
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError, grpc.aio.AbortError, grpc.aio.UsageError):
                await writer
            seat.lost(reason)

    async def _admit(self, context: Context, orders: "asyncio.Queue[Order]") -> Seat:
        metadata = dict(context.invocation_metadata() or ())
        peer = context.peer()
        token = str(metadata.get(wire.TOKEN_KEY, ""))
        # The first message is read before the token is judged: a call that ends while its peer still writes loses its reason.
        report = await self._receive(context, peer)
        self._controller.authenticate(token, peer)
        if report is None or report.WhichOneof("body") != "register":
            raise self._controller.refuse("malformed", f"{peer} did not register first")
        loop = asyncio.get_running_loop()
        hello = report.register
        seat = self._controller.register(
            hello.worker,
            token,
            pid=hello.pid,
            host=hello.host,
            deliver=lambda order: _hand_over(loop, orders, order),
        )
        await context.write(wire.part(seat.part, self._heartbeat))
        return seat

    async def _read(self, context: Context, seat: Seat) -> None:
        while (report := await self._receive(context, seat.worker)) is not None:
            if report.WhichOneof("body") == "goodbye":
                # In this order: the runner may end as soon as everybody has left, but waits for streams that are ending.
                seat.goodbye()
                await context.write(wire.farewell())
                return
            wire.apply_report(report, seat)

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
        if len(data) > limit:
            raise self._controller.refuse("oversized", f"{who} sent a message of {len(data)} bytes (at most {limit})")
        try:
            return wire.parse_report(data)
        except SessionRefused as refusal:
            raise self._controller.refuse("malformed", f"{who} sent {refusal}") from refusal

    @staticmethod
    async def _write(context: Context, orders: "asyncio.Queue[Order]") -> None:
        while True:
            await context.write(wire.order(await orders.get()))


def _hand_over(loop: asyncio.AbstractEventLoop, orders: "asyncio.Queue[Order]", order: Order) -> None:
    # The loop ends with the server; an order after that has nobody left to reach.
    if not loop.is_closed():
        loop.call_soon_threadsafe(orders.put_nowait, order)
