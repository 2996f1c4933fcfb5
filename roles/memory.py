"""Memory that a process has freed and still holds."""

import ctypes


def give_back() -> None:
    """Return freed memory to the kernel.

    Workers keep what they free, for the next step of training needs it again; what building a model has left behind is
    needed by nobody. Does nothing where the C library has no `malloc_trim`.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
