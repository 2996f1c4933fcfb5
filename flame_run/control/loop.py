"""An asyncio loop in a thread of its own, with waits that end."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from flame_run.control.errors import ControlTimeout
from transports.grpc_channel.loop import QuietLoop

T = TypeVar("T")


class LoopThread:
    """Runs an event loop in a daemon thread named `name` until `close`."""

    def __init__(self, name: str) -> None:
        self.loop: asyncio.AbstractEventLoop = QuietLoop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def close(self, timeout: float = 5.0) -> None:
        """Cancel what still runs on the loop and end the thread; waits at most `timeout` seconds. Idempotent.

        Raises:
            ControlTimeout: the loop is stuck.
        """
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(timeout)
            if self._thread.is_alive():
                raise ControlTimeout(f"the event loop of {self._thread.name} did not end within {timeout:g} s")

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            tasks = asyncio.all_tasks(self.loop)
            for task in tasks:
                task.cancel()
            self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()


def call(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T], timeout: float, what: str) -> T:
    """Run `coroutine` on `loop` from another thread and wait for it.

    Raises:
        ControlTimeout: it took longer than `timeout` seconds; it is cancelled, and the text says `what` it was.
    """
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    try:
        return future.result(timeout)
    except TimeoutError:
        if future.done() and not future.cancelled():
            raise
        future.cancel()
        raise ControlTimeout(f"{what} took longer than {timeout:g} s") from None
