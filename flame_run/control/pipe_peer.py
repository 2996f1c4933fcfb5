"""A process of workers at the other end of a pipe: what it may say, and the seats of its sessions."""

import json
from functools import partial

from flame_run.control import control_pb2 as pb
from flame_run.control import wire
from flame_run.control.controller import Controller
from flame_run.control.errors import SessionRefused
from flame_run.control.orders import Order
from flame_run.control.pipe_frames import (
    BEAT,
    HEARTBEAT,
    HELLO,
    MESSAGE,
    QUIT,
    REFUSED,
    Frame,
    Incoming,
    Outgoing,
    OversizedFrame,
    frame,
)
from flame_run.control.seat import Seat

MOST_OF_STRANGERS = 1024
"""Bytes of a body before the job token was shown."""


class PipePeer:
    """Turns the frames of one connection into reports to `controller`, and its orders into frames.

    What breaks the rules of the pipe itself ends the connection and all of its sessions. A session that is refused, or says
    what cannot be, ends alone.

    Args:
        controller: whose workers they are.
        name: what to call the process in messages.
        heartbeat: seconds of silence after which the connection is given up; told to the process.
        outgoing: takes the frames for it.
    """

    def __init__(self, controller: Controller, name: str, *, heartbeat: float, outgoing: Outgoing) -> None:
        self.name = name
        self.outgoing = outgoing
        self._controller = controller
        self._heartbeat = heartbeat
        self._incoming = Incoming(MOST_OF_STRANGERS)
        self._token: str | None = None
        self._seats: dict[int, Seat] = {}
        self._newest = 0
        """Number of the session that registered last."""

    @property
    def greeted(self) -> bool:
        """Whether it has shown the job token."""
        return self._token is not None

    @property
    def seated(self) -> bool:
        """Whether any of its sessions goes on."""
        return bool(self._seats)

    def take(self, data: bytes) -> None:
        """Take bytes as they come.

        Raises:
            SessionRefused: counted; the connection has to end.
        """
        try:
            for each in self._incoming.feed(data):
                self._take(each)
        except OversizedFrame as error:
            raise self._told(0, self._controller.refuse("oversized", f"{self.name} sent {error}")) from error
        except SessionRefused as refusal:
            self._told(0, refusal)
            raise

    def lost(self, reason: str) -> None:
        """End the sessions that go on, because of `reason`."""
        seats, self._seats = self._seats, {}
        for seat in seats.values():
            seat.lost(reason)

    def silent(self) -> SessionRefused:
        """Count that nothing came for too long; returns why the connection ends."""
        return self._told(0, self._controller.refuse("silent", f"{self.name} was silent for {self._heartbeat:g} s"))

    def _take(self, each: Frame) -> None:
        kind, number, body = each
        if self._token is None:
            self._greet(each)
        elif kind == MESSAGE and 0 < number <= self._newest + 1:
            self._report(number, body)
        elif kind == BEAT and number == 0 and not body:
            self.outgoing.put(frame(BEAT))
        elif kind == QUIT and 0 < number <= self._newest:
            if (seat := self._seats.pop(number, None)) is not None:
                seat.lost(body.decode(errors="replace"))
        else:
            raise self._malformed(f"a frame of kind {kind} with {len(body)} bytes for session {number} of {self._newest}")

    def _greet(self, each: Frame) -> None:
        if each.kind != HELLO or each.number:
            raise self._malformed("something before the job token")
        token = each.body.decode(errors="replace")
        self._controller.authenticate(token, self.name)
        self._token = token
        self._incoming.most = self._controller.limits.max_report_bytes
        self.outgoing.put(frame(HELLO, 0, HEARTBEAT.pack(self._heartbeat)))

    def _report(self, number: int, body: bytes) -> None:
        try:
            report = wire.parse_report(body)
        except SessionRefused as refusal:
            raise self._malformed(str(refusal)) from refusal
        kind = report.WhichOneof("body")
        if number > self._newest:
            if kind != "register":
                raise self._malformed(f"a {kind} of session {number}, which is not registered")
            self._newest = number
            self._admit(number, report.register)
        elif (seat := self._seats.get(number)) is None:
            # It ended while this was on its way, and was told so.
            return
        elif kind == "goodbye":
            seat.goodbye()
            del self._seats[number]
            self.outgoing.put(frame(MESSAGE, number, wire.farewell()))
        else:
            self._apply(number, seat, report)

    def _admit(self, number: int, hello: pb.Register) -> None:
        deliver = partial(self._deliver, number)
        try:
            if len(hello.host) > self._controller.limits.max_name:
                raise self._malformed(f"a host of {len(hello.host)} characters")
            seat = self._controller.register(hello.worker, self._token or "", pid=hello.pid, host=hello.host, deliver=deliver)
        except SessionRefused as refusal:
            self._told(number, refusal)
            return
        self._seats[number] = seat
        self.outgoing.put(frame(MESSAGE, number, wire.part(seat.part, self._heartbeat)))

    def _apply(self, number: int, seat: Seat, report: pb.Report) -> None:
        try:
            wire.apply_report(report, seat)
        except SessionRefused as refusal:
            del self._seats[number]
            seat.lost(str(refusal))
            self._told(number, refusal)

    def _deliver(self, number: int, order: Order) -> None:
        self.outgoing.put(frame(MESSAGE, number, wire.order(order)))

    def _told(self, number: int, refusal: SessionRefused) -> SessionRefused:
        """Tell a session, or with 0 all of them, why it ends."""
        body = json.dumps({"kind": refusal.kind, "reason": str(refusal)}).encode()
        self.outgoing.put(frame(REFUSED, number, body))
        return refusal

    def _malformed(self, what: str) -> SessionRefused:
        return self._controller.refuse("malformed", f"{self.name} sent {what}")
