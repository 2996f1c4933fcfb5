"""One piece of shared memory: made by a sender, mapped by receivers, filled again when nobody uses it any more.

A segment has a name in `/dev/shm` only while it is made. From then on it lives as long as a process has it open or
mapped, so it vanishes by itself however its users end. Receivers reach it through the sender's open file.

Who uses it is kept by the kernel: each mapping holds a shared lock on the file (flock, which belongs to an opening of
the file and ends with it, also by `kill -9`), and a segment is filled again only after an exclusive lock was had.
In front of the payload stands a page with a number that grows with each filling: a handle that is late finds another
number and is refused, instead of reading a later message.
"""

import contextlib
import errno
import fcntl
import mmap
import os
import secrets
import stat
import struct
import weakref
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import override

from transports.message import Payload
from transports.shared_memory.machine import SHM_FOLDER, shm_device

NAME_PREFIX = "flame-run-"
_MAGIC = b"flamerun"
_STAMP = struct.Struct("<8sQ")
_MADV_POPULATE_READ = 22
"""Of linux/mman.h; Python has no name for it."""


@dataclass(frozen=True, slots=True)
class Handle:
    """Where a payload lies: file descriptor `descriptor` of process `pid`, which file that must be, and which filling of it."""

    pid: int
    descriptor: int
    device: int
    inode: int
    filling: int


class _Opened:
    """An open file, closed when nobody refers to this object any more."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)


class SharedPayload(Payload):
    """A payload that other processes can map. Its memory stays as it is while a tensor of it, or this object, is alive.

    Args:
        buffer: uint8 tensor of shape (nbytes,) over the mapping.
        file: keeps the segment open in this process.
        filling: number of the filling.
        memory: the mapping of somebody else's segment; it begins with the buffer.
    """

    def __init__(self, buffer: Tensor, file: _Opened, filling: int, memory: mmap.mmap | None = None) -> None:
        super().__init__(buffer)
        self._mapping = memory
        self._file: _Opened | None = file
        self._filling = filling

    @override
    def expect(self, start: int, stop: int) -> None:
        """Map the pages at once: one by one, as they are touched, takes a third of the time of reading them."""
        if self._mapping is not None and stop > start:
            first = start // mmap.PAGESIZE * mmap.PAGESIZE
            with contextlib.suppress(OSError):  # Linux before 5.14: they are mapped as they are touched
                self._mapping.madvise(_MADV_POPULATE_READ, first, min(stop, len(self._mapping)) - first)

    @override
    def forget(self, start: int, stop: int) -> None:
        if self._mapping is not None and stop > start:
            # Only whole pages; those at the edges go with their neighbours.
            first, last = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, stop // mmap.PAGESIZE * mmap.PAGESIZE
            if last > first:
                self._mapping.madvise(mmap.MADV_DONTNEED, first, last - first)

    @override
    def _end(self, buffer: Tensor) -> None:
        self._file = self._mapping = None

    @property
    def handle(self) -> Handle:
        """What a process on this machine needs to map it; good while this payload is pinned.

        Raises:
            ValueError: it was released.
        """
        if self._file is None:
            raise ValueError("a released payload has no handle")
        found = os.fstat(self._file.descriptor)
        return Handle(os.getpid(), self._file.descriptor, found.st_dev, found.st_ino, self._filling)


class Segment:
    """Memory for one payload after another, at most `capacity` bytes each.

    Raises:
        OSError: there is no room for it, or no `/dev/shm`.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._file = _Opened(_unnamed_file())
        self._filling = 0
        self._lent: weakref.ref[memoryview] | None = None
        size = mmap.PAGESIZE + capacity
        _check_room(self._file.descriptor, size)
        # Without it a full /dev/shm would end the process with SIGBUS at a later write.
        os.posix_fallocate(self._file.descriptor, 0, size)
        self._memory = mmap.mmap(self._file.descriptor, capacity, offset=mmap.PAGESIZE)

    def fill(self, nbytes: int) -> SharedPayload | None:
        """A payload of `nbytes` bytes with any content; None while the last one is used, here or elsewhere."""
        if self._lent is not None and self._lent() is not None:
            return None
        descriptor = self._file.descriptor
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        self._filling += 1
        os.pwrite(descriptor, _STAMP.pack(_MAGIC, self._filling), 0)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        # The storage of every view of the tensor refers to this object, so it lives as long as they do.
        view = memoryview(self._memory)[:nbytes]
        self._lent = weakref.ref(view)
        return SharedPayload(torch.frombuffer(view, dtype=torch.uint8), self._file, self._filling)


def map_payload(handle: Handle, nbytes: int) -> SharedPayload:
    """The payload at `handle`. A write to its tensors changes a private copy of the page, nobody else's data.

    Raises:
        OSError: it cannot be reached, or is not the segment and filling that the handle names.
    """
    path = Path(f"/proc/{handle.pid}/fd/{handle.descriptor}")
    # Looked at before it is opened: to open something else than a file can block, or do things.
    _check_file(path.stat(), handle, nbytes)
    file = _Opened(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    _check_file(os.fstat(file.descriptor), handle, nbytes)
    fcntl.flock(file.descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    if os.pread(file.descriptor, _STAMP.size, 0) != _STAMP.pack(_MAGIC, handle.filling):
        raise OSError(errno.ESTALE, "the segment holds another message by now")
    # The mapping has a duplicate of the descriptor, and with it the lock, until the last tensor is gone.
    access = mmap.PROT_READ | mmap.PROT_WRITE
    try:
        memory = mmap.mmap(file.descriptor, nbytes, flags=mmap.MAP_PRIVATE, prot=access, offset=mmap.PAGESIZE)
    except ValueError as error:
        raise OSError(errno.ESTALE, f"the segment shrank: {error}") from error
    return SharedPayload(torch.frombuffer(memory, dtype=torch.uint8), file, handle.filling, memory)


def _unnamed_file() -> int:
    path = SHM_FOLDER / f"{NAME_PREFIX}{secrets.token_hex(8)}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    path.unlink()
    return descriptor


def _check_room(descriptor: int, size: int) -> None:
    # Reserving fills what room there is with zeros before it fails: too slow to try with every message.
    system = os.fstatvfs(descriptor)
    if system.f_blocks and system.f_bavail * system.f_frsize < size:
        raise OSError(errno.ENOSPC, f"{system.f_bavail * system.f_frsize} bytes are free in {SHM_FOLDER}")


def _check_file(found: os.stat_result, handle: Handle, nbytes: int) -> None:
    is_named = stat.S_ISREG(found.st_mode) and (found.st_dev, found.st_ino) == (handle.device, handle.inode)
    if not is_named or found.st_dev != shm_device() or found.st_uid != os.geteuid():
        raise OSError(errno.ESTALE, "the handle names something else than a segment of this user")
    if found.st_size < mmap.PAGESIZE + nbytes:
        raise OSError(errno.ESTALE, f"a segment of {found.st_size} bytes cannot hold {nbytes}")
