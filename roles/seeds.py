"""All randomness of a job comes from seeds derived here from (job seed, who or what, round)."""

import hashlib
import random

import numpy as np
import torch


def derive(seed: int, *parts: str | int) -> int:
    """A 63-bit seed from the job seed and what it is for, the same on every machine.

    SHA-256 over the decimal and text parts, so that neighbouring rounds and workers get unrelated streams.
    """
    text = "/".join([str(seed), *map(str, parts)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def apply(seed: int) -> None:
    """Seed Python's, NumPy's (legacy) and PyTorch's global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - users' transforms draw from the legacy generator
    accelerator = getattr(torch, "accelerator", None)  # torch 2.6 and later
    if accelerator is None or accelerator.is_available():
        torch.manual_seed(seed)
    else:
        # `manual_seed` notes where it was called, for a CUDA that may start later: 5 ms the first time in a process.
        torch.default_generator.manual_seed(seed)
