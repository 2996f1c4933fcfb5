"""The control messages as bytes: protobuf envelopes, with JSON where a value is bulky. Never pickle."""

import json
import time
from collections.abc import Mapping
from typing import Any

from google.protobuf.message import DecodeError

from flame_run.control import control_pb2 as pb
from flame_run.control.errors import SessionRefused
from flame_run.control.orders import Abort, Gone, Order, Received
from flame_run.control.seat import Seat

SERVICE = "flame_run.control.Control"
METHOD = "Session"
TOKEN_KEY = "flame-run-token"  # noqa: S105 - the name of the metadata entry

NUMBER_BYTES = 16
"""What the number of a report takes at most."""

STATUS = {
    "token": "UNAUTHENTICATED",
    "certificate": "PERMISSION_DENIED",
    "name": "NOT_FOUND",
    "taken": "ALREADY_EXISTS",
    "malformed": "INVALID_ARGUMENT",
    "oversized": "RESOURCE_EXHAUSTED",
    "aborted": "ABORTED",
    "silent": "DEADLINE_EXCEEDED",
    "gone": "FAILED_PRECONDITION",
}
"""Kind of refusal (see `SessionRefused`) -> name of the gRPC status that says it."""


def refusal_kind(status: str) -> str | None:
    """Return the kind of refusal that a gRPC status means, None if it means none."""
    return next((kind for kind, name in STATUS.items() if name == status), None)


def register(worker: str, pid: int, host: str, session: str = "", *, again: bool = False, attempt: int = 0) -> bytes:
    """First report of a stream; `session`, `again` and `attempt` as in `Controller.register`."""
    body = pb.Register(worker=worker, pid=pid, host=host, session=session, again=again, attempt=attempt)
    return pb.Report(register=body).SerializeToString()


def numbered(report: bytes, number: int) -> bytes:
    """`report` with its number."""
    # Encoded messages that follow one another are one message.
    return report + pb.Report(number=number).SerializeToString()


def ready(address: str | None) -> bytes:
    """Report of readiness."""
    return pb.Report(ready=pb.Ready(address=address)).SerializeToString()


def state(name: str, round_: int | None, error: str | None, secondary: bool) -> bytes:
    """Report of a state."""
    return pb.Report(state=pb.State(state=name, round=round_, error=error, secondary=secondary)).SerializeToString()


def metrics(round_: int | None, values: Mapping[str, float]) -> bytes:
    """Report of values measured now."""
    body = pb.Metrics(round=round_, names=list(values), values=[float(value) for value in values.values()], time=time.time())
    return pb.Report(metrics=body).SerializeToString()


def progress(epoch: int, epochs: int) -> bytes:
    """Report of local epochs done."""
    return pb.Report(progress=pb.Progress(epoch=epoch, epochs=epochs)).SerializeToString()


def result(value: Mapping[str, Any]) -> bytes:
    """Report of a root's result."""
    return pb.Report(result=pb.Result(json=json.dumps(value).encode())).SerializeToString()


def heartbeat() -> bytes:
    """Sign of life."""
    return pb.Report(heartbeat=pb.Heartbeat()).SerializeToString()


def goodbye() -> bytes:
    """Last report of a session."""
    return pb.Report(goodbye=pb.Goodbye()).SerializeToString()


def part(value: Mapping[str, Any], heartbeat_seconds: float) -> bytes:
    """Answer to a registration."""
    return pb.Order(part=pb.Part(json=json.dumps(value).encode(), heartbeat=heartbeat_seconds)).SerializeToString()


def order(value: Order) -> bytes:
    """Encode an order of the controller."""
    match value:
        case Abort(reason):
            message = pb.Order(abort=pb.Abort(reason=reason))
        case Gone(worker, reason):
            message = pb.Order(gone=pb.Gone(worker=worker, reason=reason))
        case Received(number):
            message = pb.Order(received=pb.Received(number=number))
        case _:
            message = pb.Order(start=pb.Start(addresses=dict(value.addresses)))
    return message.SerializeToString()


def farewell() -> bytes:
    """Answer to a goodbye."""
    return pb.Order(farewell=pb.Farewell()).SerializeToString()


def parse_report(data: bytes) -> pb.Report:
    """Decode a worker's message.

    Raises:
        SessionRefused: kind `malformed`.
    """
    try:
        report = pb.Report.FromString(data)
    except DecodeError as error:
        raise SessionRefused("malformed", f"{len(data)} bytes that are no report") from error
    if report.WhichOneof("body") is None:
        raise SessionRefused("malformed", "an empty report")
    return report


def parse_order(data: bytes) -> pb.Order:
    """Decode the controller's message.

    Raises:
        ValueError: it is none.
    """
    try:
        return pb.Order.FromString(data)
    except DecodeError as error:
        raise ValueError(f"{len(data)} bytes that are no order") from error


def apply_report(report: pb.Report, seat: Seat) -> None:
    """Hand a report between registration and goodbye to the worker's seat.

    Raises:
        SessionRefused: kind `malformed` for a value that cannot be; see `Seat`.
    """
    match report.WhichOneof("body"):
        case "ready":
            seat.ready(report.ready.address if report.ready.HasField("address") else None)
        case "state":
            _apply_state(report.state, seat)
        case "metrics":
            _apply_metrics(report.metrics, seat)
        case "progress":
            seat.progress(report.progress.epoch, report.progress.epochs)
        case "result":
            seat.result(_json_object(report.result.json, seat))
        case "heartbeat":
            pass
        case body:
            raise seat.refuse("malformed", f"a second {body}")


def _apply_state(body: pb.State, seat: Seat) -> None:
    seat.state(
        body.state,
        round_=body.round if body.HasField("round") else None,
        error=body.error if body.HasField("error") else None,
        secondary=body.secondary,
    )


def _apply_metrics(body: pb.Metrics, seat: Seat) -> None:
    if len(body.names) != len(body.values):
        raise seat.refuse("malformed", f"{len(body.names)} names for {len(body.values)} metrics")
    seat.metrics(body.round if body.HasField("round") else None, dict(zip(body.names, body.values, strict=True)), body.time)


def _json_object(data: bytes, seat: Seat) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise seat.refuse("malformed", f"a result that is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise seat.refuse("malformed", "a result that is not a JSON object")
    return value
