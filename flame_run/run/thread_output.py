"""What workers that are threads of one process print and log: to each its own file."""

import logging
import os
import sys
import threading
from io import TextIOBase, TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from typing_extensions import override

from flame_run.run.entry import LOG_FORMAT


class ThreadOutput(TextIOBase):
    """Standard output, standard error and the stream of the log, from when it is made until `restore`.

    What a thread writes that has no file of its own goes to the first file, and so does what native code and child
    processes write that inherit the descriptors 1 and 2.
    """

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self) -> None:
        super().__init__()
        self._own = threading.local()
        self._files: list[TextIOWrapper] = []
        self._former = sys.stdout, sys.stderr
        sys.stdout = sys.stderr = self
        logging.basicConfig(stream=self, level=logging.INFO, format=LOG_FORMAT, force=True)

    def go_to(self, path: Path) -> None:
        """Append what this thread writes from now on to `path`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a", buffering=1, encoding=self.encoding, errors=self.errors)
        if not self._files:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        # All stay open: somebody may have asked for the descriptor, or write after the worker has ended.
        self._files.append(file)
        self._own.file = file

    def restore(self) -> None:
        """Put back what was there before, and close the files."""
        sys.stdout, sys.stderr = self._former
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=LOG_FORMAT, force=True)
        for file in self._files:
            file.close()

    def flush_all(self) -> None:
        """Write out what any thread has begun to write."""
        for file in self._files:
            file.flush()

    @property
    def _file(self) -> TextIO:
        file: TextIOWrapper | None = getattr(self._own, "file", self._files[0] if self._files else None)
        return self._former[1] if file is None or file.closed else file

    @property
    def buffer(self) -> BinaryIO:
        """Takes bytes."""
        return self._file.buffer

    @override
    def close(self) -> None:
        """Close nothing: it is the others' output too."""
        self.flush()

    @override
    def fileno(self) -> int:
        return self._file.fileno()

    @override
    def writable(self) -> bool:
        return True

    @override
    def write(self, text: str, /) -> int:
        return self._file.write(text)

    @override
    def flush(self) -> None:
        self._file.flush()

    def reconfigure(self, **options: Any) -> None:
        """See `TextIOWrapper.reconfigure`; of this thread's file only."""
        cast("TextIOWrapper", self._file).reconfigure(**options)
