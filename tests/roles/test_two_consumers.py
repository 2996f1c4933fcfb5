"""Two roles of data consumers below one root, which share a part of the model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional

from roles import seeds
from roles.aggregator import Aggregator
from roles.algorithms.fedavgm import FedAvgM
from roles.algorithms.fedbuff import FedBuff
from roles.errors import BadModel
from roles.settings import Quorum, Settings, Share
from roles.simulated import Simulated
from roles.trainer import Trainer
from tests.roles import oracle
from tests.roles.fatal import dying
from tests.roles.federation import PARAMETERS, PATIENCE, UPWARDS, Job, Killed, Layout, Record, Tags, Worker, federate
from tests.roles.oracle import State
from tests.roles.specimens import CLASSES, FEATURES, Points, classifier
from transports.faulty import BREAKS, Chance, FaultyHub

ROUNDS, SEED = 3, 8
NAMES = ("image-trainer-0", "image-trainer-1", "table-trainer-0", "table-trainer-1")
DATA = {name: Points(at, 6 + 4 * at, batch_size=4) for at, name in enumerate(NAMES)}
COLUMNS = {"image": FEATURES, "table": 2}
"""Kind -> how many features its clients see."""
SHARES = {f"{kind}-trainer": Share(include=("head.*", f"{kind}.*")) for kind in COLUMNS}
QUORUM = Quorum(join_timeout=PATIENCE, rejoin_timeout=PATIENCE)


class TwoEyed(LightningModule):
    """An encoder for each kind of data, and a head that they share."""

    def __init__(self, kinds: Sequence[str]) -> None:
        super().__init__()
        self.lr, self.momentum = 0.1, 0.0
        self.kinds = kinds
        for kind in kinds:
            setattr(self, kind, nn.Sequential(nn.Linear(COLUMNS[kind], 6), nn.BatchNorm1d(6)))
        self.head = nn.Sequential(nn.Tanh(), nn.Linear(6, CLASSES))

    @property
    def net(self) -> nn.Module:
        """What the oracle trains."""
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(getattr(self, self.kinds[0])(inputs[:, : COLUMNS[self.kinds[0]]]))
        return outputs

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def kind_of(name: str) -> str:
    return name.partition("-")[0]


def two_kinds(code: type[Trainer] = Trainer) -> Layout:
    """One aggregator over two trainers of each kind, on a channel for each kind."""
    workers = [Worker("aggregator-0", "aggregator", {"images": "default", "tables": "default"})]
    workers += [Worker(name, f"{kind_of(name)}-trainer", {f"{kind_of(name)}s": "default"}) for name in DATA]
    tags: Tags = {f"{kind}s": {"aggregator": PARAMETERS, f"{kind}-trainer": UPWARDS} for kind in COLUMNS}
    return Layout({"aggregator": Aggregator, "image-trainer": code, "table-trainer": code}, tags, tuple(workers))


def job(folder: Path | None = None, *, quorum: Quorum = QUORUM, settings: Mapping[str, Any] | None = None, **more: Any) -> Job:
    whole = Settings(seed=SEED, rounds=ROUNDS, quorum=quorum, shares=SHARES, **(settings or {}))
    own = {role: replace(whole, share=share) for role, share in SHARES.items()}
    modules = {name: partial(TwoEyed, [kind_of(name)]) for name in DATA}
    data = [lambda each=each: each for each in DATA.values()]
    whole_job = Job(build_module=lambda: TwoEyed(list(COLUMNS)), data=data, settings=whole, settings_of=own, modules=modules)
    return replace(whole_job, folder=folder, **more)


def succeed(layout: Layout, job: Job, **more: Any) -> Mapping[str, Record]:
    records = federate(layout, job, **more)
    assert {name: record.error for name, record in records.items()} == dict.fromkeys(records)
    return records


def expected(there: Callable[[int, str], bool] = lambda *_: True) -> State:
    """Each entry is the mean over those who have it; one of which nobody says anything stays."""
    seeds.apply(seeds.derive(SEED, "model"))
    current: State = {name: value.clone() for name, value in TwoEyed(list(COLUMNS)).state_dict().items()}
    for round in range(1, ROUNDS + 1):
        found: dict[str, tuple[list[State], list[float]]] = {name: ([], []) for name in current}
        for worker, own in DATA.items():
            if not there(round, worker):
                continue
            module: Any = TwoEyed([kind_of(worker)])
            module.load_state_dict({name: value for name, value in current.items() if name in module.state_dict()})
            oracle.train_locally(module, own, seed=SEED, worker=worker, round=round, epochs=1)
            for name, value in module.state_dict().items():
                found[name][0].append({name: value.clone()})
                found[name][1].append(float(own.samples))
        current |= {name: oracle.mean(*each)[name] for name, each in found.items() if each[0]}
    return current


def last(folder: Path) -> State:
    state: State = torch.load(folder / "last.pt", weights_only=True)
    return state


@pytest.mark.usefixtures("folding")
@pytest.mark.parametrize("eager", [False, True])
def test_what_both_have_is_averaged_over_all_and_the_rest_over_those_who_have_it(eager: bool, tmp_path: Path) -> None:
    records = succeed(two_kinds(), job(tmp_path, settings={"eager": eager}))
    assert oracle.largest_difference(last(tmp_path), expected()) < 1e-6
    assert records["aggregator-0"].metrics_of("samples") == dict.fromkeys((1, 2, 3), 48.0)
    assert records["aggregator-0"].metrics_of("updates") == dict.fromkeys((1, 2, 3), 4.0)


def test_nobody_is_sent_what_is_not_for_its_role(tmp_path: Path) -> None:
    got: dict[str, set[str]] = {}

    class Looking(Trainer):
        def load(self, message: Any) -> None:
            got[self.context.name] = {name.partition(".")[0] for name in message.groups["weights"]}
            super().load(message)

    succeed(two_kinds(Looking), job())
    assert got == {name: {"head", kind_of(name)} for name in DATA}


def test_entries_of_which_nobody_says_anything_stay(tmp_path: Path) -> None:
    code = dict.fromkeys(("image-trainer-0", "image-trainer-1"), dying(Trainer, "train", call=2))
    records = federate(two_kinds(), job(tmp_path, quorum=replace(QUORUM, survivors=True), code_of=code))
    assert {name for name, record in records.items() if isinstance(record.error, Killed)} == code.keys()
    after = expected(lambda at, worker: at == 1 or worker.startswith("table"))
    assert oracle.largest_difference(last(tmp_path), after) < 1e-6


def test_breaking_connections_change_no_bit(tmp_path: Path) -> None:
    succeed(two_kinds(), job(tmp_path / "calm"))
    hub = FaultyHub(Chance(3, rate=0.25, kinds=(*BREAKS, "delay", "duplicate", "corrupt_offer"), most=12))
    succeed(two_kinds(), job(tmp_path / "rough"), hub=hub)
    assert hub.happened
    assert oracle.same_bits(last(tmp_path / "calm"), last(tmp_path / "rough"))


def test_an_update_with_entries_of_the_other_role_is_refused() -> None:
    whole = job()
    settings_of = {**whole.settings_of, "table-trainer": replace(whole.settings, share=Share())}
    modules = {**whole.modules, "table-trainer-0": lambda: TwoEyed(["table", "image"])}
    records = federate(two_kinds(), replace(whole, settings_of=settings_of, modules=modules))
    assert "table-trainer-0: entries differ: missing [], unknown ['image.0" in str(records["aggregator-0"].error)


def test_a_server_optimizer_moves_each_entry_by_its_own_mean(tmp_path: Path) -> None:
    succeed(two_kinds(), job(tmp_path, strategy=lambda: FedAvgM(beta=0.0, eta=1.0)))
    assert oracle.largest_difference(last(tmp_path), expected()) < 1e-6


def test_a_role_whose_share_selects_nothing_says_so() -> None:
    whole = job()
    nothing = replace(whole.settings, share=Share(include=("nose.*",)))
    records = federate(two_kinds(), replace(whole, settings_of={**whole.settings_of, "table-trainer": nothing}))
    assert isinstance(records["table-trainer-0"].error, BadModel)
    assert "nothing to exchange" in str(records["table-trainer-0"].error)


def both_below_a_middle() -> Layout:
    workers = [Worker("top-0", "top", {"global": "default"})]
    workers.append(Worker("middle-0", "middle", {"global": "default", "images": "default", "tables": "default"}))
    workers += [Worker(name, f"{kind_of(name)}-trainer", {f"{kind_of(name)}s": "default"}) for name in DATA]
    tags: Tags = {
        "global": {"top": PARAMETERS, "middle": UPWARDS},
        **{f"{kind}s": {"middle": PARAMETERS, f"{kind}-trainer": UPWARDS} for kind in COLUMNS},
    }
    code = {"top": Aggregator, "middle": Aggregator, "image-trainer": Trainer, "table-trainer": Trainer}
    return Layout(code, tags, tuple(workers))


def test_a_middle_aggregator_serves_two_roles_that_share_the_whole_model(tmp_path: Path) -> None:
    settings = Settings(seed=SEED, rounds=ROUNDS, quorum=QUORUM)
    plain = Job(build_module=classifier(), data=job().data, settings=settings, folder=tmp_path)
    succeed(both_below_a_middle(), plain)
    flat = oracle.fedavg(classifier(), DATA, seed=SEED, rounds=ROUNDS, epochs=1)[-1]
    assert oracle.largest_difference(last(tmp_path), flat) < 1e-6


def test_asynchronous_rounds_serve_several_channels_too(tmp_path: Path) -> None:
    settings = Settings(seed=SEED, rounds=6, quorum=QUORUM, simulated=Simulated(spread=1.0, seed=SEED))
    plain = Job(build_module=classifier(), data=job().data, settings=settings, strategy=lambda: FedBuff(k=2))
    records = succeed(two_kinds(), plain)
    assert records["aggregator-0"].metrics_of("updates") == dict.fromkeys(range(1, 7), 2.0)
