"""The kinds of messages between the members of a ring, and what each carries."""

from typing import Final

STANDING: Final = "standing"
"""From a member to its leader, whenever it changes: where it is, see `Standing`."""

BEGIN: Final = "begin"
"""From the leader: train `round` from the model of the round before; `digest` of it, and the model itself if it is needed."""

ATTEMPT: Final = "attempt"
"""From the leader: reduce. `number`, `order` (JSON list of the members), `trained` (of which update), `counts` of all of them."""

PIECE: Final = "piece"
"""From a member to the next one in the ring: a piece of a segment. `number` of the attempt, `step`, `index`."""

FINISHED: Final = "finished"
"""From a member: it has the whole sum of attempt `number`."""

BROKEN: Final = "broken"
"""From a member: its attempt `number` came to nothing, because of `end`; `how` and `reason`, see `Broken`."""

COMMIT: Final = "commit"
"""From the leader: the sum of `trained` counts, and goes up through `by`."""

ABANDON: Final = "abandon"
"""From the leader: there will be no sum of `trained`; `reason`, and `fault`, whether more than lost workers is behind it."""

WANT: Final = "want"
"""From a leader to a member that is further than itself: send me your model."""

MODEL: Final = "model"
"""The answer: the model of `round`, `digest`."""
