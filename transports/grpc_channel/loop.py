"""A thread that runs one asyncio loop; everything that touches gRPC happens there."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextvars import Context
from typing import Any, TypeVar

from typing_extensions import TypeVarTuple, Unpack, override

T = TypeVar("T")
_Ts = TypeVarTuple("_Ts")


class QuietLoop(asyncio.SelectorEventLoop):
    """A loop that takes events after its end, and drops them.

    In a process with several loops each of them passes gRPC's events on to the others. One that finds another closed would
    fail in the middle of it, and the events behind it would wait until something else happens: perhaps for ever.
    """

    @override
    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        try:
            return super().call_soon_threadsafe(callback, *args, context=context)
        except RuntimeError:
            if not self.is_closed():
                raise
            return asyncio.Handle(callback, args, self, context)


class LoopThread:
    """An asyncio loop in a thread of its own. Make it after any fork: neither threads nor gRPC survive one."""

    def __init__(self, name: str) -> None:
        self._ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()
        self._loop, self._stop = self._ready.result()

    def _main(self) -> None:
        with asyncio.Runner(loop_factory=QuietLoop) as runner:
            runner.run(self._until_stopped())

    async def _until_stopped(self) -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        loop.set_exception_handler(_report)
        self._ready.set_result((loop, stop))
        await stop.wait()

    def post(self, action: Callable[..., object], *args: object) -> bool:
        """Run `action(*args)` on the loop soon; False if the loop has ended."""
        with self._lock:
            if not self._closed:
                self._loop.call_soon_threadsafe(action, *args)
            return not self._closed

    def run(self, work: Coroutine[Any, Any, T], timeout: float | None) -> T:
        """What `work` returns, run on the loop.

        Raises:
            TimeoutError: it took longer than `timeout` seconds, and was cancelled.
        """
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout)
        finally:
            future.cancel()

    def close(self) -> None:
        """End the loop and its tasks; returns when the thread has ended. Idempotent."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # With several loops in a process, gRPC wakes all of them for one event; those that find nothing raise this
    # (https://github.com/grpc/grpc/issues/25364). Nothing is lost.
    if not isinstance(context.get("exception"), BlockingIOError):
        loop.default_exception_handler(context)
