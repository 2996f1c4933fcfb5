"""Messages to one end over one stream: offered, sent when they are fetched, until they are answered."""

from collections import deque
from collections.abc import Callable

from transports.base import Outcome
from transports.errors import ProtocolError
from transports.grpc_channel.transfer import Outgoing

_MOST_WANTED = 4096


class Outbox:
    """What was offered to `end` and waits for its answer.

    Args:
        end: the worker at the other side.
        put: takes a control frame to send.
        wake: called when a run waits to be sent.
        checked: whether payloads carry checksums.
        shared: whether `end` and we can share memory.
    """

    def __init__(self, end: str, put: Callable[[bytes], None], wake: Callable[[], object], *, checked: bool, shared: bool) -> None:
        self.checked = checked
        self.shared = shared
        self.sending: deque[tuple[Outgoing, int, int]] = deque()
        """Messages with the bytes of them that are still to be sent, from and to, in the order in which they were fetched."""
        self._end = end
        self._put = put
        self._wake = wake
        self._unanswered: dict[int, Outgoing] = {}
        self._fetched: set[int] = set()

    @property
    def waiting(self) -> int:
        """Number of offers that were not answered."""
        return len(self._unanswered)

    def offer(self, outgoing: Outgoing) -> None:
        """Offer a message."""
        self._unanswered[outgoing.number] = outgoing
        self._put(outgoing.offer(checked=self.checked, shared=self.shared))

    def next_run(self) -> tuple[bytes, list[bytes]] | None:
        """The frame that announces the next run, and its chunks; None where the message is not wanted any more."""
        outgoing, start, stop = self.sending.popleft()
        if outgoing.number not in self._unanswered:
            return None
        end, frame, chunks = outgoing.run(start, stop, checked=self.checked)
        if end < stop:
            self.sending.appendleft((outgoing, end, stop))
        return frame, chunks

    def take_fetch(self, number: int, offset: int, nbytes: int) -> None:
        """The end wants the payload of an offer: all of it, once, or with `nbytes` that much from `offset` on.

        Raises:
            ProtocolError: it had it, or it came with the offer, there is no such offer or part, or too much was asked for.
        """
        outgoing = self._known(number)
        if nbytes:
            if offset + nbytes > outgoing.nbytes:
                raise ProtocolError(f"{nbytes} bytes from {offset} on of offer {number}, which has {outgoing.nbytes}")
            if len(self.sending) >= _MOST_WANTED:
                raise ProtocolError(f"more than {_MOST_WANTED} payloads asked for at once")
            self.sending.append((outgoing, offset, offset + nbytes))
        else:
            if number in self._fetched or not outgoing.nbytes:
                raise ProtocolError(f"offer {number} cannot be fetched twice, nor without a payload")
            self._fetched.add(number)
            self.sending.append((outgoing, 0, outgoing.nbytes))
        self._wake()

    def take_answer(self, number: int, outcome: Outcome) -> None:
        """The end took or refused a message.

        Raises:
            ProtocolError: there is no such offer.
        """
        delivery = self._known(number).delivery
        # First, because whoever waits for the answer may want to use the memory of the message again.
        del self._unanswered[number]
        self._fetched.discard(number)
        delivery.settle(self._end, outcome)

    def lose(self, reason: str) -> None:
        """The stream is over: what was not answered is lost."""
        for outgoing in self._unanswered.values():
            outgoing.delivery.settle(self._end, Outcome("lost", reason))
        self._unanswered.clear()
        self.sending.clear()

    def _known(self, number: int) -> Outgoing:
        if number not in self._unanswered:
            raise ProtocolError(f"an answer to offer {number}, which waits for none")
        return self._unanswered[number]
