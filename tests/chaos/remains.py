"""What a run may leave behind: processes, shared memory, ports, drafts."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path

import psutil

SHARED_MEMORY = Path("/dev/shm")
MARK = "CHAOS_RUN"
"""The environment variable by which all processes of a run are known."""
LAST_MOMENTS = 10.0
"""Seconds that processes on their way out have."""


def processes(mark: str) -> Iterator[psutil.Process]:
    """The living processes of a run, by its mark."""
    wanted = f"{MARK}={mark}".encode()
    for pid in psutil.pids():
        try:
            if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                process = psutil.Process(pid)
                if process.status() != psutil.STATUS_ZOMBIE:
                    yield process
        except (OSError, psutil.Error):
            continue


def segments() -> set[str]:
    """Names of shared memory of any run on this machine."""
    return {path.name for path in SHARED_MEMORY.glob("flame-run*")}


def described(process: psutil.Process) -> str:
    """A process in words, with what it waits for in the kernel."""
    try:
        words = " ".join(process.cmdline())[-120:]
        ports = [each.laddr.port for each in process.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
        return f"process {process.pid} ({process.status()}, listens on {ports}): ...{words}"
    except psutil.Error:
        return f"process {process.pid}, which has ended meanwhile"


def of_run(mark: str, before: Collection[str]) -> list[str]:
    """Complaints about what runs on or lies in shared memory after a run; `before`: the segments that were there before it."""
    _, alive = psutil.wait_procs(list(processes(mark)), timeout=LAST_MOMENTS)
    found = [f"left behind: {described(process)}" for process in alive if process in list(processes(mark))]
    # Another run on this machine may be making one: those have a name for a moment only.
    suspects = segments() - set(before)
    for _ in range(50):
        suspects &= segments()
        if not suspects:
            break
        os.sched_yield()
    lasting = [name for name in suspects if not _held(name)]
    return found + [f"left behind: shared memory {name}" for name in lasting]


def in_folder(folder: Path, temporary: Path) -> list[str]:
    """Complaints about what lies in a run folder, and in the folder for temporary files, after a run that was not killed."""
    drafts = [path for path in folder.rglob("*") if path.suffix in {".tmp", ".draft"}]
    notes = [folder / name for name in (".rendezvous", "runner.json") if (folder / name).exists()]
    secrets = (folder / ".security").glob("*")
    return [f"left behind: {path}" for path in [*drafts, *notes, *secrets, *temporary.iterdir()]]


def _held(name: str) -> bool:
    """Whether a living process of another run has the segment open."""
    try:
        inode = (SHARED_MEMORY / name).stat().st_ino
    except FileNotFoundError:
        return True
    for path in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if path.stat().st_ino == inode:
                return True
        except OSError:
            continue
    return False
