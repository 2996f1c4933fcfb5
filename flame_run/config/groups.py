"""Types of the configuration groups; no torch. `schema`, `dataset` and `job` are documents, checked by JSON Schema instead."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from flame_run.config.nodes import open_map
from flame_run.run.faults import FaultsConf
from flame_run.run.null_round import NullRoundConf
from flame_run.security.config import SecurityConf
from flame_run.track.config import TrackingConf


class Backend(Enum):
    """How a channel travels; `auto` leaves its own word standing."""

    auto = "auto"
    grpc = "grpc"
    shm = "shm"
    inproc = "inproc"


class Checksum(Enum):
    """When payloads carry a checksum; `auto`: where they leave the machine."""

    auto = "auto"
    always = "always"
    never = "never"


class BestMode(Enum):
    """Which values of a metric are better."""

    max = "max"
    min = "min"


@dataclass
class TransportConf:
    """Group `transport`."""

    backend: Backend = Backend.auto
    bind: str = "127.0.0.1"
    """Address that workers listen on; one that is not loopback opens them to the network."""
    port: int = 0
    """Port of the controller, which workers of other sites dial; 0: any free one."""
    advertise: str | None = None
    """Host name or address that peers dial; default: `bind`."""
    chunk_bytes: int = 2**20
    checksum: Checksum = Checksum.auto
    max_message_bytes: int = 16 * 2**30
    max_tensors: int = 100_000
    codec: dict[str, Any] = field(default_factory=open_map)
    """Channel name -> how weights are made smaller on it: `bf16`, `{upload: [delta, int8], distribute: bf16}`, ..."""


@dataclass
class CheckpointConf:
    """Group `checkpoint`."""

    every: int = 1
    """Rounds between two checkpoints of a root; 0: none."""
    keep: int = 2
    metric: str | None = None
    """What the best model is chosen by; null: `accuracy` where it is logged, else `loss`."""
    mode: BestMode | None = None
    """null: `min` for names that end in `loss`, else `max`."""


@dataclass
class ModelConf:
    """Group `model`."""

    module: Any = MISSING
    """`_target_` of a LightningModule and its arguments."""
    data: Any = None
    """`_target_` of a LightningDataModule and its arguments."""
    trainer: dict[str, Any] = field(default_factory=dict)
    """Options of Lightning's Trainer."""


@dataclass
class WorkerConf:
    """What the launcher sets for each worker; not for people."""

    name: str | None = None
    rendezvous: str | None = None


@dataclass
class FlameRunConf:
    """The whole configuration."""

    schema: Any = MISSING
    dataset: Any = MISSING
    job: Any = MISSING
    algorithm: Any = MISSING
    selector: Any = None
    sampler: Any = None
    privacy: Any = None
    model: ModelConf = field(default_factory=ModelConf)
    transport: TransportConf = field(default_factory=TransportConf)
    launcher: Any = MISSING
    faults: FaultsConf = field(default_factory=FaultsConf)
    checkpoint: CheckpointConf = field(default_factory=CheckpointConf)
    security: SecurityConf = field(default_factory=SecurityConf)
    tracking: TrackingConf = field(default_factory=TrackingConf)
    schema_file: str | None = None
    """A schema as JSON or YAML; replaces the group choice."""
    dataset_file: str | None = None
    """A dataset spec as JSON or YAML; replaces the group choice."""
    python_path: list[str] = field(default_factory=list)
    """Folders from which workers import the user's classes."""
    null_round: NullRoundConf = field(default_factory=NullRoundConf)
    """Of `experiment=null_round` only."""
    worker: WorkerConf = field(default_factory=WorkerConf)


def register() -> None:
    """Make the types known to Hydra, under the name that `conf/config.yaml` starts from."""
    ConfigStore.instance().store(name="flame_run_conf", node=FlameRunConf)
