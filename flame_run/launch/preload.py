"""What the fork server imports before it forks workers, so that each worker shares these pages instead of importing for seconds.

Nothing here may start a thread of gRPC or a computation of torch: neither survives a fork.
"""

import importlib
import pkgutil

from flame_run.torchvision_guard import install
from transports.grpc_channel.forks import tolerate_forks

install()
tolerate_forks()

import grpc  # noqa: E402, F401 - the guard comes before everything that imports torchvision
import lightning.pytorch  # noqa: E402, F401
import torch  # noqa: E402, F401

import roles  # noqa: E402
import transports  # noqa: E402

OF_A_WORKER = (
    "flame_run.config.groups",
    "flame_run.control.grpc_session",
    "flame_run.control.rendezvous",
    "flame_run.data.module",
    "flame_run.models.mlp",
    "flame_run.models.mnist",
    "flame_run.run.assemble",
    "flame_run.run.entry",
    "flame_run.run.worker",
    "flame_run.security.job",
)
"""Where a worker begins, and what most of them use."""
LATE = ("antlr4.LL1Analyzer", "grpc._channel", "grpc._simple_stubs", "grpc._utilities", "grpc.experimental", "omegaconf._impl")
"""What the libraries import at their first use, which is in every worker."""

for _package in (transports, roles):
    for _module in pkgutil.walk_packages(_package.__path__, f"{_package.__name__}."):
        importlib.import_module(_module.name)
for _name in (*OF_A_WORKER, *LATE):
    importlib.import_module(_name)
