"""HTTP/2 by hand: the bytes of a call of gRPC, whole or in pieces, and the frames of a recording."""

import random
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, CONTINUATION = 0, 1, 3, 4, 6, 9
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """A frame of HTTP/2."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def field(name: bytes, value: bytes) -> bytes:
    """A header field that no table knows; both parts are shorter than 127 bytes."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def call(path: str) -> bytes:
    """Header fields that open a call of gRPC."""
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    ]
    return b"".join(field(*each) for each in fields)


def hello(path: str) -> bytes:
    """All that opens a call on a new connection."""
    return PREFACE + frame(SETTINGS) + frame(HEADERS, END_HEADERS, 1, call(path))


def endless_headers(path: str, count: int) -> bytes:
    """A call whose header fields go on and on, and never end."""
    more = frame(CONTINUATION, 0, 1, field(b"x-more", b"y" * 120) * 100)
    return PREFACE + frame(SETTINGS) + frame(HEADERS, 0, 1, call(path)) + more * count


def frames_of(recorded: bytes) -> list[bytes]:
    """The whole frames that follow the preface of a recorded connection."""
    found, at = [], len(PREFACE)
    while at + 9 <= len(recorded):
        end = at + 9 + int.from_bytes(recorded[at : at + 3], "big")
        if end > len(recorded):
            break
        found.append(recorded[at:end])
        at = end
    return found


def reordered(recorded: bytes, draw: random.Random) -> bytes:
    """A recorded connection with its data in another order, some of them twice."""
    frames = frames_of(recorded)
    places = [at for at, each in enumerate(frames) if each[3] == DATA]
    shuffled = draw.sample(places, len(places))
    mixed = {place: frames[other] for place, other in zip(places, shuffled, strict=True)}
    again = [frames[place] for place in places[: len(places) // 2]]
    return PREFACE + b"".join([mixed.get(at, each) for at, each in enumerate(frames)] + again)
