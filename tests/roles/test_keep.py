"""What workers remember from round to round."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roles import seals
from roles.algorithms.fedavg import FedAvg
from roles.context import Context
from roles.errors import BadModel, StateLost
from roles.keep import WorkerState
from roles.settings import Checkpoint, Settings
from transports.inproc import Hub, InprocEndpoint


class History:
    """Remembers, in a tensor, the rounds that it was in: as sensitive to a wrong state as can be."""

    def __init__(self) -> None:
        self.rounds = torch.zeros(0, dtype=torch.int64)

    def live(self, round: int) -> None:
        self.rounds = torch.cat([self.rounds, torch.tensor([round])])

    def state_dict(self) -> dict[str, Any]:
        return {"rounds": self.rounds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rounds = state["rounds"]


def worker(folder: Path | None, *, resume: bool = False, every: int = 1) -> WorkerState:
    context = Context(
        name="trainer-0",
        role="trainer",
        index=0,
        endpoint=InprocEndpoint("trainer-0", Hub()),
        channels={},
        tags={},
        peers={},
        groups={},
        settings=Settings(checkpoint=Checkpoint(every=every)),
        strategy=FedAvg(),
        reporter=None,  # type: ignore[arg-type] # nothing reports here
        state_folder=folder,
        resume=resume,
    )
    return WorkerState(context)


def started(folder: Path | None, **options: Any) -> tuple[WorkerState, History]:
    keep, history = worker(folder, **options), History()
    keep.register("history", history)
    return keep, history


def take_part(keep: WorkerState, history: History, round: int, *, die: bool = False) -> None:
    keep.enter(round)
    history.live(round)
    if not die:
        keep.save(round)


def test_a_new_process_goes_on_from_the_state_after_the_round_before(tmp_path: Path) -> None:
    keep, history = started(tmp_path)
    for round in (1, 2, 3):
        take_part(keep, history, round)
    for again in (3, 4):
        later, restored = started(tmp_path, resume=True)
        later.enter(again)
        assert restored.rounds.tolist() == list(range(1, again))


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_round_that_is_asked_for_again_starts_from_the_same_state(on_disk: bool, tmp_path: Path) -> None:
    keep, history = started(tmp_path if on_disk else None)
    take_part(keep, history, 1)
    take_part(keep, history, 2, die=True)
    take_part(keep, history, 2)
    take_part(keep, history, 2)
    keep.enter(3)
    assert history.rounds.tolist() == [1, 2]


def test_rounds_without_the_worker_change_nothing_for_it(tmp_path: Path) -> None:
    keep, history = started(tmp_path)
    for round in (3, 4, 9):
        take_part(keep, history, round)
    later, restored = started(tmp_path, resume=True)
    later.enter(9)
    assert restored.rounds.tolist() == [3, 4]


def test_a_state_is_there_before_the_first_round_is_over(tmp_path: Path) -> None:
    keep, history = started(tmp_path)
    take_part(keep, history, 5, die=True)
    later, restored = started(tmp_path, resume=True)
    take_part(later, restored, 6)
    assert restored.rounds.tolist() == [6]


@settings(max_examples=80, deadline=None)
@given(data=st.data(), every=st.integers(1, 4), length=st.integers(1, 14))
def test_whatever_dies_when_the_state_is_that_of_an_undisturbed_worker(
    data: st.DataObject, every: int, length: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The root may fall back to any of its last three checkpoints, in the middle of any round."""
    folder = tmp_path_factory.mktemp("states")
    part = data.draw(st.lists(st.booleans(), min_size=length, max_size=length), label="takes part in round i+1")
    keep, history = started(folder, every=every)
    round, crashes, ever, highest = 1, 0, False, 0
    while round <= length:
        if part[round - 1]:
            died = crashes < 4 and data.draw(st.booleans(), label=f"dies in round {round}")
            take_part(keep, history, round, die=died and data.draw(st.booleans(), label="before it has saved"))
            ever = True
            if died:
                crashes += 1
                # The newest checkpoint may be in the making, and the one before it torn.
                newest = (round - 1) // every * every
                highest = max(highest, newest)
                back = newest - every * data.draw(st.integers(0, 2), label="checkpoints passed over")
                # Those before the last three are gone, also where it has fallen back before.
                round = max(0, back, highest - 2 * every) + 1
                keep, history = started(folder, every=every, resume=ever)
                continue
            assert history.rounds.tolist() == [each for each in range(1, round + 1) if part[each - 1]]
        round += 1
    assert len(seals.round_files(folder)) <= 6


def test_a_state_that_is_needed_and_gone_is_one_error_that_names_file_and_remedy(tmp_path: Path) -> None:
    later, _ = started(tmp_path, resume=True)
    with pytest.raises(StateLost, match=r"round-00004\.pt is missing.*Put the folder back, or start a new run") as lost:
        later.enter(5)
    assert str(tmp_path) in str(lost.value)


def test_a_round_further_back_than_what_is_kept_is_refused_and_never_guessed(tmp_path: Path) -> None:
    keep, history = started(tmp_path)
    for round in range(1, 10):
        take_part(keep, history, round)
    later, _ = started(tmp_path, resume=True)
    with pytest.raises(StateLost, match="round-00004"):
        later.enter(5)
    first, restored = started(tmp_path, resume=True)
    first.enter(1)
    assert restored.rounds.tolist() == []


def test_a_torn_state_is_named_with_what_is_wrong_with_it(tmp_path: Path) -> None:
    keep, history = started(tmp_path)
    take_part(keep, history, 1)
    (tmp_path / "round-00001.pt").write_bytes(b"torn")
    later, _ = started(tmp_path, resume=True)
    with pytest.raises(StateLost, match=r"round-00001\.pt: its end is missing"):
        later.enter(2)


def test_a_torn_state_of_a_round_that_is_done_again_does_no_harm(tmp_path: Path) -> None:
    keep, history = started(tmp_path)
    for round in (1, 2):
        take_part(keep, history, round)
    (tmp_path / "round-00002.pt").write_bytes(b"torn")
    later, restored = started(tmp_path, resume=True)
    take_part(later, restored, 2)
    assert restored.rounds.tolist() == [1, 2]


def test_a_part_that_was_not_there_before_is_named(tmp_path: Path) -> None:
    keep, history = started(tmp_path)
    take_part(keep, history, 1)
    later, _ = started(tmp_path, resume=True)
    later.register("codec", History())
    with pytest.raises(StateLost, match=r"no state of 'codec', only of \['history'\]"):
        later.enter(2)


def test_a_new_job_takes_nothing_from_an_older_one_in_the_same_folder(tmp_path: Path) -> None:
    keep, history = started(tmp_path)
    for round in (1, 2):
        take_part(keep, history, round)
    other, fresh = started(tmp_path)
    other.enter(2)
    assert fresh.rounds.tolist() == []
    assert list(seals.round_files(tmp_path)) == [0]


def test_a_worker_without_state_writes_nothing(tmp_path: Path) -> None:
    keep = worker(tmp_path / "states")
    keep.enter(1)
    keep.save(1)
    assert not (tmp_path / "states").exists()


def test_without_checkpoints_states_stay_in_memory_and_a_lost_one_says_why(tmp_path: Path) -> None:
    keep, history = started(tmp_path, every=0)
    take_part(keep, history, 1)
    assert not list(tmp_path.iterdir())
    later, _ = started(tmp_path, every=0, resume=True)
    with pytest.raises(StateLost, match=r"checkpoint\.every=0"):
        later.enter(2)


def test_a_state_that_could_not_be_read_back_is_refused_at_once(tmp_path: Path) -> None:
    class Odd(History):
        def state_dict(self) -> dict[str, Any]:
            return {"path": Path("no tensor")}

    keep = worker(tmp_path)
    keep.register("odd", Odd())
    with pytest.raises(BadModel, match="cannot be read back"):
        keep.enter(1)


def test_a_name_is_registered_once() -> None:
    keep, _ = started(None)
    with pytest.raises(ValueError, match="'history' is registered already"):
        keep.register("history", History())
