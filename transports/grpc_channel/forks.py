"""Forking a process that talks gRPC, as PyTorch's `DataLoader` does for its worker processes."""

import os


def tolerate_forks() -> None:
    """Keep gRPC from touching forked children; call it before gRPC is imported.

    Its own fork handlers crash a child that was forked while another thread was inside gRPC. A child that never
    calls gRPC, such as a loader of data, needs none of them. A choice of the user's in the environment stands.
    """
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
