"""Errors of this package.

TransportError
├── Aborted          the endpoint was told to stop; every wait on it ends with this
├── WaitTimeout      a wait reached its end; the message names channel, group and peers waited for
├── PeerLost         the other end of a channel went away in the middle of an exchange
├── ProtocolError    bytes that do not follow the wire format, or exceed its limits
├── Refused          a peer would not have us (wrong token, unknown name, unknown channel)
└── AddressError     an address cannot be listened on or dialled
"""


class TransportError(Exception):
    """Base of every error that this package raises."""


class Aborted(TransportError):
    """The endpoint was told to stop: every present and future wait on it raises this."""


class WaitTimeout(TransportError):
    """A wait reached its deadline; the text names what was waited for."""


class PeerLost(TransportError):
    """A peer went away during an exchange."""

    def __init__(self, end: str, reason: str) -> None:
        super().__init__(f"{end}: {reason}")
        self.end = end
        self.reason = reason


class ProtocolError(TransportError):
    """Received bytes that are not a message, or one beyond the configured limits."""


class Refused(TransportError):
    """A peer refused the connection; the text is its reason."""


class AddressError(TransportError):
    """An address that cannot be listened on or dialled."""
