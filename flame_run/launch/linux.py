"""The few calls of Linux that Python does not wrap."""

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Let the kernel send SIGKILL to this process when its parent ends.

    The kernel binds this to the *thread* of the parent that forked this process: that thread has to live as long as this
    process shall. Source: prctl(2), PR_SET_PDEATHSIG.

    Args:
        parent: process id of the expected parent; this process exits at once with status 1 if it is no longer its child.

    Raises:
        OSError: the kernel refuses.

    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    if os.getppid() != parent:
        os._exit(1)


def describe_exit(code: int) -> str:
    """How a process ended, in words.

    Args:
        code: an exit status, or minus the number of the signal that killed the process.

    Returns:
        `exit 3` or `killed by SIGKILL`.

    """
    if code >= 0:
        return f"exit {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
