"""How much memory a process holds, by kind of page, as Linux counts it."""

from pathlib import Path

STATUS = Path("/proc/self/status")
RESET_PEAK = "5"
"""What /proc/self/clear_refs takes to set the highest resident size to the present one (proc(5))."""
KINDS = {"RssAnon": "private_megabytes", "RssShmem": "shared_megabytes", "RssFile": "file_megabytes"}
"""Pages of its own, of shared memory, and of libraries (read when first needed, shared with all other workers)."""


def resident() -> dict[str, float]:
    """`VmRSS` (now), `VmHWM` (the highest so far) and the kinds of pages of this process, in MB of 2**20 bytes."""
    fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return {key: int(fields[key].split()[0]) / 1024 for key in ("VmRSS", "VmHWM", *KINDS)}


def forget_peak() -> None:
    """Let `VmHWM` start anew from what is held now."""
    Path("/proc/self/clear_refs").write_text(RESET_PEAK)
