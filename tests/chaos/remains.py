"""What a run may leave behind: processes, shared memory, ports, drafts."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path

import psutil

SHARED_MEMORY = Path("/dev/shm")
MARK = "CHAOS_RUN"
"""The environment variable by which all processes of a run are known."""
LAST_MOMENTS = 60.0
"""Seconds that processes on their way out have."""
LOOKS = 5
"""At what looks left behind: a file that is being made has a name a moment before it is open."""


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
    return found + [f"left behind: shared memory {name}" for name in lasting_segments(before)]


def lasting_segments(before: Collection[str] = ()) -> set[str]:
    """Names of shared memory that this process or nobody has open, those of `before` left out.

    Another run on this machine may be making one, which has a name until its maker, who has it open, comes to take it away.
    """
    suspects = segments() - set(before)
    for _ in range(LOOKS):
        suspects = {name for name in suspects if _is_left(name)}
    return suspects


def in_folder(folder: Path, temporary: Path) -> list[str]:
    """Complaints about what lies in a run folder, and in the folder for temporary files, after a run that was not killed."""
    drafts = [path for path in folder.rglob("*") if path.suffix in {".tmp", ".draft"}]
    notes = [folder / name for name in (".rendezvous", "runner.json") if (folder / name).exists()]
    secrets = (folder / ".security").glob("*")
    return [f"left behind: {path}" for path in [*drafts, *notes, *secrets, *temporary.iterdir()]]


def _is_left(name: str) -> bool:
    """Whether a segment still has its name, and no other process has it open."""
    try:
        segment = (SHARED_MEMORY / name).stat()
    except FileNotFoundError:
        return False
    for path in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            found = path.stat()
        except OSError:
            continue
        if (found.st_dev, found.st_ino) == (segment.st_dev, segment.st_ino) and int(path.parts[2]) != os.getpid():
            return False
    return (SHARED_MEMORY / name).exists()
