"""How workers come together before the first round and part after the last one, as far as they are there."""

import logging
import time
from collections.abc import Callable, Collection, Sequence

from roles.kinds import END
from roles.upward import next_event
from transports.base import Channel, Joined, Left
from transports.errors import PeerLost, WaitTimeout
from transports.message import Message

log = logging.getLogger(__name__)


def meet(channel: Channel, needed: Callable[[int], int], timeout: float) -> None:
    """Wait until all ends of `channel` have joined; after `timeout` seconds as many as are needed will do.

    Args:
        channel: whose ends to wait for.
        needed: takes how many are gone for good, and gives how many must be there.
        timeout: in seconds.

    Raises:
        WaitTimeout: names the ends that are missing.
        PeerLost: an end that is needed is gone.
    """
    until = time.monotonic() + timeout
    waited = list(channel.spec.ends)
    while True:
        try:
            channel.wait_joined(waited, max(0.0, until - time.monotonic()))
        except PeerLost as error:
            waited.remove(error.end)
            if len(waited) < needed(len(channel.spec.ends) - len(waited)):
                raise
            log.warning("going on without %s", error)
        except WaitTimeout as error:
            if len(channel.joined & set(waited)) < needed(len(channel.spec.ends) - len(waited)):
                raise
            log.warning("starting without some: %s", error)
            return
        else:
            return


def part(channels: Sequence[Channel], gone: Collection[str], *, timeout: float, rejoin_timeout: float) -> None:
    """Tell everyone on `channels` that the job is over, and wait until each has taken it or is gone.

    Args:
        channels: whose ends to tell.
        gone: those that will not be back.
        timeout: seconds for which those who are there are waited for.
        rejoin_timeout: seconds for which those who are away are waited for.
    """
    for channel in channels:
        channel.decline("the job is over")
    deliveries = [channel.send(Message(kind=END, round=0), channel.joined) for channel in channels]
    until = time.monotonic() + timeout
    for channel, delivery in zip(channels, deliveries, strict=True):
        try:
            outcomes = delivery.wait(max(0.0, until - time.monotonic()))
        except WaitTimeout as error:
            log.warning("the job ends without waiting longer: %s", error)
            continue
        told = {end for end, outcome in outcomes.items() if outcome.state != "lost"}
        _part_late(channel, set(channel.spec.ends) - told - set(gone), time.monotonic() + rejoin_timeout)


def _part_late(channel: Channel, late: set[str], until: float) -> None:
    """Tell those who were away, as they come back."""
    while late:
        event = next_event(channel.receive, until)
        if event is None:
            log.warning("the job ends without %s: not back in time to hear it", ", ".join(sorted(late)))
            return
        gone = isinstance(event, Left) and (event.final or event.clean)
        if gone or (isinstance(event, Joined) and event.end in late and _told(channel, event.end, until)):
            late.discard(event.end)


def _told(channel: Channel, end: str, until: float) -> bool:
    delivery = channel.send(Message(kind=END, round=0), [end])
    try:
        return delivery.wait(max(0.0, until - time.monotonic()))[end].state != "lost"
    except WaitTimeout as error:
        log.warning("the job ends without waiting longer: %s", error)
        return True
