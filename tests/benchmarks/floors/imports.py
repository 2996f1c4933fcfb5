"""The floor of a start: one process that imports torch and Lightning."""

import subprocess
import sys
import time
from functools import cache

PLAIN = "import torch, lightning"
GUARDED = "from flame_run.torchvision_guard import install; install(); import torch, lightning"
"""With the project's guard, where the plain import fails: a torchvision built for another torch."""


@cache
def statement() -> str:
    """The import that works on this machine; tried once, which also warms the caches of the disk."""
    plain = subprocess.run([sys.executable, "-c", PLAIN], capture_output=True, check=False)
    return PLAIN if plain.returncode == 0 else GUARDED


def import_seconds() -> float:
    """Wall-clock seconds of such a process, from start to exit."""
    words = [sys.executable, "-c", statement()]
    began = time.perf_counter()
    subprocess.run(words, check=True)
    return time.perf_counter() - began
