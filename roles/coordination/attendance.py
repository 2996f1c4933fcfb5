"""Who is there, of all that a coordinator has to do with: kept by function tag, which stands for a level of the topology."""

import time
from collections.abc import Iterable, Mapping

from roles.presence import Presence
from roles.settings import Quorum
from transports.base import Channel, Event, Joined, Left


class Attendance:
    """Follows the ends of several channels.

    Args:
        channels: tag -> the channel on which it is bound, open.
        quorums: tag -> what the policy says of the ends of its channel.
    """

    def __init__(self, channels: Mapping[str, Channel], quorums: Mapping[str, Quorum]) -> None:
        self.channels = dict(channels)
        self.quorums = dict(quorums)
        self.presence = {tag: Presence(channel.spec.ends, time.monotonic()) for tag, channel in channels.items()}

    def tag_of(self, event: Event) -> str:
        """The tag on whose channel something happened."""
        return next(tag for tag, channel in self.channels.items() if channel.spec.name == event.channel)

    def note(self, event: Event, tag: str) -> None:
        """Take into account who has come or left."""
        if isinstance(event, Joined):
            self.presence[tag].joined(event.end)
        elif isinstance(event, Left):
            final = event.final or event.clean
            self.presence[tag].left(event.end, event.reason, final=final, now=time.monotonic())

    def there(self, tag: str) -> list[str]:
        """The ends connected now, in the order of the plan."""
        channel = self.channels[tag]
        joined = channel.joined
        return [end for end in channel.spec.ends if end in joined]

    def gone(self, tags: Iterable[str]) -> list[str]:
        """Those who will not be back."""
        return [end for tag in tags for end in self.presence[tag].gone]

    def lacks(self, tag: str) -> int:
        """How many ends are missing for a round."""
        presence, ends = self.presence[tag], self.channels[tag].spec.ends
        return self.quorums[tag].needed(len(ends), len(presence.gone)) - len(presence.present)

    def shortage(self, tags: Iterable[str]) -> str:
        """Who is missing without whom there can be no round; empty if there can."""
        texts = []
        for tag in tags:
            presence = self.presence[tag]
            if presence.present and (self.quorums[tag].tolerant or self.lacks(tag) <= 0):
                continue
            reasons = presence.gone | {end: away.reason for end, away in presence.away.items()}
            texts.append("; ".join(f"{end}: {reason}" for end, reason in reasons.items()))
        return f"too few workers are there ({'; '.join(texts)})" if texts else ""

    def limits(self, tags: Iterable[str]) -> list[float]:
        """Until when those are waited for who are away and needed."""
        return [
            away.since + self.quorums[tag].rejoin_timeout
            for tag in tags
            if self.lacks(tag) > 0
            for away in self.presence[tag].away.values()
        ]
