"""One round of an aggregator: what happens on the channel goes to the state machine, what it decides is done."""

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence

from roles.codecs.codec import Codec
from roles.errors import RoundFailed
from roles.kinds import AGAIN, COVERED, SKIP, TICKET, TURN, VIRTUAL_TIME, ticket_of
from roles.part import Report
from roles.rounds.average import WeightedSum
from roles.rounds.check import check_header
from roles.rounds.collect import Close, Collect, Fold, Short, Why
from roles.rounds.ends import Asked, Ends
from roles.rounds.gather import Ask, Gather
from roles.rounds.intake import Intake
from roles.upward import next_event
from transports.base import Arrived, Event, Joined, Left
from transports.message import Header, Message, Scalar

SENDINGS = 3
"""How often an end that cannot read the model of a round is sent it once more."""


class Round:
    """Collects updates into a sum: those of one round, or, with `Gather`, round after round whatever comes.

    Args:
        collect: decides what to do; knows who takes part.
        ends: what is known of all ends.
        ask: sends a model to an end.
        receive: takes a timeout in seconds and gives the next event of the ends.
        codec: of the updates; None: they come as they are.
        entries: which entries of the weights an end exchanges; None: all of them.
        staleness_weight: what an update counts, besides its weight, that was made from a model so many rounds old.
        heard: is told of each update that is in a sum for good.
    """

    def __init__(
        self,
        collect: Collect | Gather,
        ends: Ends,
        *,
        ask: Callable[[Message, str], None],
        receive: Callable[[float | None], Event],
        codec: Codec | None = None,
        entries: Callable[[str], Collection[str] | None] | None = None,
        staleness_weight: Callable[[int], float] = lambda staleness: 1.0,  # noqa: ARG005 - all the same
        heard: Callable[[Report], None] = lambda report: None,  # noqa: ARG005 - nobody listens
    ) -> None:
        self._ends = ends
        self._send = ask
        self._receive = receive
        self._codec = codec
        self._entries = entries
        self._collect = collect
        self._asynchronous = isinstance(collect, Gather)
        self._intake = Intake(collect, ends, codec=codec, staleness_weight=staleness_weight, heard=heard)
        self._unread: Counter[str] = Counter()

    def begin(self, model: Message, members: Sequence[str]) -> None:
        """A round begins: `model`, with the number of the round, was sent to those of `members` who were free, or is to be sent.

        Members are in the order of the plan; where rounds are asynchronous everybody is one.
        """
        self._model = model
        self._members = list(members)
        self._asked = Asked.by(model)
        self._unread.clear()
        self._intake.begin(model)
        if isinstance(self._collect, Gather):
            self._collect.begin()
        for end in members:
            if not self._asynchronous:
                self._ends.suppose(end, self._asked)
            self._enter(end)

    @property
    def now(self) -> float | None:
        """Where there is a virtual clock: its time, in seconds, when the last update was added."""
        return self._intake.now

    @property
    def missing(self) -> dict[str, str]:
        """The ends without an update so far, and why."""
        return dict(self._collect.missing)

    def fold_into(self, total: WeightedSum) -> None:
        """Fold the updates of the round in the order of the plan.

        Raises:
            RoundFailed: fewer ends can deliver than are needed; the text names who and why.
        """
        while True:
            step = self._collect.next(time.monotonic())
            if isinstance(step, Close):
                self._close()
                return
            if isinstance(step, Short):
                self._give_up()
                raise RoundFailed(f"round {self._model.round}: {step.reason}", lost=step.lost, starved=step.starved)
            if isinstance(step, Fold):
                self._fold(step.end, total)
                continue
            if isinstance(step, Ask):
                self._ask_now(step.end)
                continue
            event = next_event(self._receive, step.until)
            if event is not None:
                self.note(event, total)

    def _close(self) -> None:
        self._intake.close(self._members)

    def _give_up(self) -> None:
        self._intake.give_up()

    def _fold(self, end: str, total: WeightedSum) -> None:
        self._intake.fold(end, total)

    def note(self, event: Event, total: WeightedSum) -> None:
        """Take one event into account; `total` tells what updates have to look like."""
        if isinstance(event, Joined):
            self._ends.joined(event.end)
            if self._collect.back(event.end):
                self._ask(event.end)
        elif isinstance(event, Left):
            self._ends.left(event)
            self._intake.lose(event.end)
            self._enter(event.end)
        else:
            self._note_answer(event, total)
        self._ask_uncovered()

    def _ask_uncovered(self) -> None:
        """Ask those once more whose update was in that of an end that is lost."""
        for end in [] if isinstance(self._collect, Gather) else self._collect.uncovered():
            self._enter(end)
            if self._collect.expects(end):
                self._ask(end)

    def _enter(self, end: str) -> None:
        """Tell the state machine how it stands with `end`."""
        presence = self._ends.presence
        if end in self._ends.excluded:
            self._collect.lost(end, self._ends.excluded[end], "excluded")
        elif end in presence.gone:
            self._collect.lost(end, presence.gone[end])
        elif end in presence.away:
            self._collect.away(end, presence.away[end].reason, presence.away[end].since)

    def _ask(self, end: str) -> None:
        if self._ends.free(end):
            self._send(self._model_for(end), end)

    def _ask_now(self, end: str) -> None:
        """Send the model of now to an end of an asynchronous aggregator."""
        if isinstance(self._collect, Gather):
            self._collect.asked(end)
        if self._ends.free(end):
            self._send(self._model_for(end), end)
        else:
            self._enter(end)

    def _model_for(self, end: str) -> Message:
        """The model as `end` gets it now."""
        if not isinstance(self._collect, Gather):
            return self._model
        changed: dict[str, Scalar] = {} if self.now is None else {VIRTUAL_TIME: self.now}
        if (turn := self._collect.turn(end)) > 0:
            changed |= {TURN: turn, TICKET: f"{ticket_of(self._model.scalars)}.{turn}"}
        return self._model.relabel(scalars={**self._model.scalars, **changed}) if changed else self._model

    def _note_answer(self, event: Arrived, total: WeightedSum) -> None:
        end, offer, header = event.end, event.offer, event.offer.header
        asked = self._ends.answers(end, header)
        current = asked is not None and (self._asynchronous or asked == self._asked) and self._collect.expects(end)
        if header.kind == COVERED:
            offer.accept()
            if current and isinstance(self._collect, Collect):
                self._collect.covered(end, str(header.scalars.get("by")))
        elif header.kind in (SKIP, AGAIN):
            offer.accept()
            if current:
                self._note_refusal(end, header)
        elif asked is None or not current:
            self._ends.turn_away(offer, end, self._why_not(end, header.round))
        else:
            self._note_update(event, asked, total)
        if not current and self._collect.expects(end):
            # It is done with an earlier model, if it was at one.
            self._ask(end)

    def _note_update(self, event: Arrived, asked: Asked, total: WeightedSum) -> None:
        end, offer, header = event.end, event.offer, event.offer.header
        encoded = None if self._codec is None else self._codec.specs(total.specs)
        own = None if self._entries is None else self._entries(end)
        reason = check_header(header, round=asked.round, total=total, encoded=encoded, entries=own)
        at: Scalar | None = event.at if self.now is None else header.scalars.get(VIRTUAL_TIME)
        if reason is None and not (isinstance(at, int | float) and math.isfinite(at)):
            reason = f"{VIRTUAL_TIME} {at!r} is not a time"
        if reason is not None:
            self._intake.reject(end, offer, reason)
            return
        # One that was lost on its way and comes once more may say that it was there before it was asked for again.
        time, samples = max(asked.at, float(at or 0.0)), int(header.scalars["samples"])
        seconds = time - asked.at
        report = Report(end=end, round=asked.round, scalars=header.scalars, samples=samples, seconds=seconds)
        self._intake.offered(end, offer, report, time)

    def _note_refusal(self, end: str, header: Header) -> None:
        """`end` has no update of this round, or could not read the model."""
        again, reason = header.kind == AGAIN, str(header.scalars.get("reason"))
        self._unread[end] += again
        if again and self._unread[end] <= SENDINGS:
            # One that is asynchronous is asked in its turn: between rounds there is no model to send.
            if self._collect.back(end):
                self._ask(end)
        elif again:
            self._collect.lost(end, f"could not read the model: {reason}", "refused")
        else:
            synchronous: Why = "refused" if header.scalars.get("fault") else "lost"
            asynchronous: Why = "starved" if header.scalars.get("starved") else "short"
            self._collect.lost(end, reason, asynchronous if self._asynchronous else synchronous)

    def _why_not(self, end: str, round: int) -> str:
        if end in self._ends.excluded:
            return self._ends.excluded[end]
        if round < self._model.round:
            return f"round {round} is over"
        if round > self._model.round:
            return f"update of round {round} in round {self._model.round}"
        return f"nothing is expected from {end} in round {round}"
