"""What selectors and samplers are told at an aggregator, and whom they choose."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from roles.context import Context
from roles.keep import Stateful
from roles.part import About, Part, Report
from roles.rounds.ends import Ends
from roles.rounds.task import Task
from roles.selectors.selector import Selection


class Registry(Protocol):
    """Where states are kept from round to round."""

    def register(self, name: str, part: Stateful) -> None:
        """Keep the state of `part` from now on."""


class Choice:
    """Lets the selector choose among ends that are data consumers, and passes on what they report.

    Args:
        context: of the aggregator.
        ends: all its ends, in the order of the plan.
    """

    def __init__(self, context: Context, ends: tuple[str, ...]) -> None:
        self._context = context
        self._consumers = all(context.peers[end].consumer for end in ends)
        self._selects = self._consumers and context.selector.traits.selects
        self._chosen: tuple[int, Selection] | None = None

    def begin(self, registry: Registry) -> None:
        """Begin selector and sampler at an aggregator that is no root; their states are kept in `registry`."""
        context = self._context
        about = About(start={}, parameters=frozenset(), population=context.population, seed=context.settings.seed)
        for name, part in (("selector", context.selector), ("sampler", context.sampler)):
            part.begin(about)
            if remembers(part):
                registry.register(name, part)

    def among(self, task: Task, ends: Ends) -> Task:
        """`task` with the ends that take part in it: the same in all phases of a round."""
        if not self._selects:
            return task
        if self._chosen is None or self._chosen[0] != task.round:
            there = [end for end in task.ends if end not in ends.presence.gone and end not in ends.excluded]
            if not there:
                return task
            self._chosen = (task.round, self._context.selector.select(task.round, there))
        selection = self._chosen[1]
        return replace(task, ends=selection.ends, needed=selection.needed)

    def again(self) -> None:
        """The round is done again: whoever was chosen could not do it."""
        self._chosen = None

    def heard(self, report: Report) -> None:
        """An update was added."""
        if self._consumers:
            for part in self._context.parts:
                part.heard(report)

    def missed(self, round: int, missing: Mapping[str, str]) -> None:
        """Some who were asked have no update in the round."""
        if self._consumers:
            for end, reason in missing.items():
                for part in self._context.parts:
                    part.missed(end, round, reason)


def remembers(part: Part) -> bool:
    """Whether `part` has a state to keep."""
    return type(part).state_dict is not Part.state_dict
