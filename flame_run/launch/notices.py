"""What the runner and its fork server say to each other, over one private socket pair.

Each message is one datagram (`SOCK_SEQPACKET`): a kind, the ticket of a job, two numbers, and a text.
"""

import socket
import struct
from dataclasses import dataclass
from enum import IntEnum

MAX_BYTES = 64 * 2**10
"""Longest datagram, bytes."""
_HEAD = struct.Struct("<Bqqq")


class Kind(IntEnum):
    """What a message says."""

    FORK = 1
    """Runner: fork a worker for `ticket`, hand `first` of the payload; comes with four file descriptors."""
    KILL = 2
    """Runner: kill the worker of `ticket`, or every worker where that is 0."""
    READY = 3
    """Server: the imports are done."""
    BROKEN = 4
    """Server: an import failed; `text` is the traceback."""
    STARTED = 5
    """Server: the worker of `ticket` has process id `first`."""
    ENDED = 6
    """Server: the worker of `ticket`, process id `first`, ended with `second`: exit status, or minus the signal."""
    REFUSED = 7
    """Server: the worker of `ticket` could not be forked; `text` says why."""


@dataclass(frozen=True, slots=True)
class Notice:
    """One message."""

    kind: Kind
    ticket: int = 0
    first: int = 0
    second: int = 0
    text: str = ""

    def send(self, connection: socket.socket, descriptors: tuple[int, ...] = ()) -> None:
        """Send it, with duplicates of the file descriptors.

        Raises:
            OSError: the other side is gone.

        """
        room = MAX_BYTES - _HEAD.size
        # The end of a traceback says what failed.
        data = _HEAD.pack(self.kind, self.ticket, self.first, self.second) + self.text.encode()[-room:]
        socket.send_fds(connection, [data], descriptors)


def receive(connection: socket.socket) -> tuple[Notice, list[int]] | None:
    """Wait for the next message and the file descriptors that come with it; None when the other side is gone."""
    try:
        data, descriptors, _, _ = socket.recv_fds(connection, MAX_BYTES, 8)
    except ConnectionError:
        return None
    if not data:
        return None
    kind, ticket, first, second = _HEAD.unpack_from(data)
    text = data[_HEAD.size :].decode(errors="replace")
    return Notice(kind=Kind(kind), ticket=ticket, first=first, second=second, text=text), descriptors
