"""Where and when something was measured."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil


def machine() -> dict[str, Any]:
    """Processor, memory, versions and the load at this moment."""
    memory, shared = psutil.virtual_memory(), os.statvfs("/dev/shm")
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "memory_gb": round(memory.total / 2**30, 1),
        "shm_gb": round(shared.f_blocks * shared.f_frsize / 2**30, 1),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "lightning", "grpcio")},
        "load": [round(each, 2) for each in os.getloadavg()],
    }


def describe(found: dict[str, Any]) -> str:
    """One line of it, for people."""
    load = "the machine was idle" if found["load"][0] < 0.5 else "NOT idle: something else was running"
    return (
        f"{found['cores']} cores ({found['processor']}), {found['memory_gb']} GB, torch {found['torch']}, "
        f"lightning {found['lightning']}, grpcio {found['grpcio']}; load at start {found['load'][0]} ({load})"
    )


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
