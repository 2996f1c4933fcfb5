from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from typing_extensions import override

from roles.ring.kinds import BEGIN
from roles.settings import Settings
from roles.trainer import Trainer
from tests.ring.layouts import ALL, SIZES, errors, federation, hybrid, ring
from tests.roles import oracle
from tests.roles.fatal import dying
from tests.roles.federation import Layout, Record
from tests.roles.specimens import classifier
from transports.base import Outcome
from transports.faulty import BREAKS, Chance, Fault, FaultyHub
from transports.inproc import InprocOffer

LAYOUTS: Mapping[str, Callable[[], Layout]] = {
    "ring": lambda: ring(4),
    "hybrid": lambda: hybrid({"eu": 3, "na": 2}),
}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a small model travel in several pieces."""
    monkeypatch.setattr("roles.ring.exchange.CHUNK", 64)


def model(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / "last.pt", weights_only=True)
    return state


def run(name: str, folder: Path, hub: FaultyHub | None = None, **more: object) -> dict[str, Record]:
    layout, build = LAYOUTS[name](), classifier(lr=0.1, momentum=0.9)
    records = federation(layout, folder, hub=hub, build_module=build, **more).run()  # type: ignore[arg-type]
    assert errors(records) == dict.fromkeys(records)
    return records


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", LAYOUTS)
def test_rings_whose_connections_break_and_come_back_change_no_bit_of_the_model(name: str, seed: int, tmp_path: Path) -> None:
    run(name, tmp_path / "calm")
    hub = FaultyHub(Chance(seed, rate=0.15, kinds=(*BREAKS, "delay", "duplicate", "corrupt_offer"), most=12))
    records = run(name, tmp_path / "rough", hub)
    assert hub.happened
    assert oracle.same_bits(model(tmp_path / "rough"), model(tmp_path / "calm"))
    root = next(record for record in records.values() if record.results)
    samples = sum(SIZES[: len(LAYOUTS[name]().trainers)])
    assert root.metrics_of("samples") == dict.fromkeys((1, 2, 3), float(samples))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", LAYOUTS)
def test_members_that_die_while_connections_break_change_no_bit_of_the_model(name: str, seed: int, tmp_path: Path) -> None:
    run(name, tmp_path / "calm")
    layout = LAYOUTS[name]()
    stages = ["train", "ring_allreduce", "load", "train", "ring_allreduce"]
    code = {worker: dying(Trainer, stages[int(worker[-1])], call=2) for worker in layout.trainers}
    hub = FaultyHub(Chance(seed, rate=0.1, kinds=BREAKS, most=12))
    records = run(name, tmp_path / "rough", hub, code_of=code, restart=True)
    assert all(len(records[worker].deaths) == 1 for worker in layout.trainers)
    assert oracle.same_bits(model(tmp_path / "rough"), model(tmp_path / "calm"))


@pytest.mark.parametrize("name", LAYOUTS)
def test_damaged_pieces_are_asked_for_once_more(name: str, tmp_path: Path) -> None:
    run(name, tmp_path / "calm")
    hub = FaultyHub(Chance(3, rate=0.02, kinds=("corrupt",), most=2))
    run(name, tmp_path / "rough", hub)
    assert oracle.same_bits(model(tmp_path / "rough"), model(tmp_path / "calm"))


def test_optimizers_that_are_kept_survive_the_death_of_their_member(tmp_path: Path) -> None:
    settings = {"optimizer": "keep"}
    assert Settings(**settings, quorum=ALL).optimizer == "keep"  # type: ignore[arg-type]
    run("ring", tmp_path / "calm", settings=settings, states=tmp_path / "calm-states")
    code = {"trainer-2": dying(Trainer, "ring_allreduce", call=2, after=True), "trainer-0": dying(Trainer, "train", call=3)}
    run("ring", tmp_path / "hit", settings=settings, states=tmp_path / "hit-states", code_of=code, restart=True)
    assert oracle.same_bits(model(tmp_path / "hit"), model(tmp_path / "calm"))


class LateAnswer(FaultyHub):
    """Breaks the connection over which `cut` is called to round 2, and keeps the answer of `late` until `cut` has one more call.

    So one of those who were called together comes back while another one has not answered.
    """

    def __init__(self, cut: str, late: str) -> None:
        super().__init__()
        self.cut, self.late = cut, late
        self.calls = 0
        """Of `cut` to round 2."""
        self._kept: list[tuple[InprocOffer, Outcome]] = []

    @override
    def _arrive(self, offer: Any) -> None:
        if self._called(offer) == self.cut:
            self.calls += 1
            if self.calls == 1:
                offer.fault = Fault("break_before_offer")
        super()._arrive(offer)
        if self.calls == 2:
            kept, self._kept = self._kept, []
            for each in kept:
                super().answer(*each)

    @override
    def answer(self, offer: InprocOffer, outcome: Outcome) -> None:
        with self.lock:
            if self._called(offer) == self.late and self.calls < 2:
                self._kept.append((offer, outcome))
            else:
                super().answer(offer, outcome)

    def _called(self, offer: InprocOffer) -> str | None:
        return offer.receiver.owner if (offer.header.kind, offer.header.round) == (BEGIN, 2) else None


def test_a_member_that_comes_back_is_called_again_though_another_one_has_not_answered(tmp_path: Path) -> None:
    run("ring", tmp_path / "calm")
    hub = LateAnswer("trainer-3", "trainer-1")
    run("ring", tmp_path / "rough", hub)
    assert hub.calls == 2
    assert oracle.same_bits(model(tmp_path / "rough"), model(tmp_path / "calm"))
