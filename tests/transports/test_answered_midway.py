"""An offer that is answered while its payload is on its way: what is still to come is passed over, and nothing more."""

from typing import Any

import pytest

from tests.transports.lone_link import PART_BYTES, Endpoint, Plain, header_of
from transports.base import Arrived, ChannelSpec
from transports.errors import ProtocolError
from transports.grpc_channel import inbox as inboxes
from transports.grpc_channel.inbox import GrpcOffer, Inbox
from transports.mailbox import Mailbox
from transports.wire_pb2 import Offer, Run


def asked_for(monkeypatch: pytest.MonkeyPatch) -> tuple[Inbox, GrpcOffer]:
    """An offer of two parts, both of which have been asked for."""
    monkeypatch.setattr(inboxes, "PIECE_BYTES", PART_BYTES)
    owner: Any = Endpoint()
    channel = Plain(ChannelSpec(name="c", group="g", ends=("a",)), Mailbox())
    inbox = Inbox(owner, channel, "a", lambda frame: None, shared=False)
    inbox.take_offer(Offer(id=1, header=header_of(2 * PART_BYTES)))
    event = channel.receive(0.0)
    while not isinstance(event, Arrived):
        event = channel.receive(0.0)
    event.offer.stream()
    assert isinstance(event.offer, GrpcOffer)
    return inbox, event.offer


@pytest.mark.parametrize("refused", [True, False])
@pytest.mark.parametrize("written", [0, 1, 2, 3])
def test_bytes_that_were_asked_for_before_the_answer_may_still_come(
    monkeypatch: pytest.MonkeyPatch, written: int, *, refused: bool
) -> None:
    inbox, offer = asked_for(monkeypatch)
    quarter = bytes(PART_BYTES // 4)
    inbox.take_run(Run(id=1, chunks=4))
    for count in range(4):
        if count == written:
            offer.refuse("seen") if refused else offer.accept()
        assert inbox.run is not None
        inbox.take_chunk(inbox.run, quarter)
    inbox.take_run(Run(id=1, chunks=4))
    for _ in range(4):
        assert inbox.run is not None
        inbox.take_chunk(inbox.run, quarter)
    with pytest.raises(ProtocolError, match="nobody waits for"):
        inbox.take_run(Run(id=1, chunks=1))


def test_more_bytes_than_were_asked_for_are_still_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    inbox, offer = asked_for(monkeypatch)
    inbox.take_run(Run(id=1, chunks=5))
    assert inbox.run is not None
    inbox.take_chunk(inbox.run, bytes(PART_BYTES // 2))
    offer.refuse("seen")
    for _ in range(3):
        inbox.take_chunk(inbox.run, bytes(PART_BYTES // 2))
    with pytest.raises(ProtocolError, match="more than the header announced"):
        inbox.take_chunk(inbox.run, b"1")
