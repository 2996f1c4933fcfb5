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

for _package in (transports, roles):
    for _module in pkgutil.walk_packages(_package.__path__, f"{_package.__name__}."):
        importlib.import_module(_module.name)
