"""`launcher=local`: one process per worker on this machine, forked from a server that has done the imports."""

from flame_run.launch.forking import ForkingLauncher


class LocalLauncher(ForkingLauncher):
    """Runs every job in a process of its own; single ones can be killed and started again."""

    def hold(self) -> None:
        """Let the next `launch` last until `release` or `kill`, so that `restart` finds it."""
        self._held = True

    def release(self) -> None:
        """Let `launch` return once no process is left."""
        with self._lock:
            self._held = False
            if self._crew is not None:
                self._crew.release()

    def restart(self, index: int) -> None:
        """Run job `index` again in a new process, after its process has ended. Safe from any thread.

        It does nothing once `launch` is over, has not been held, or was told to kill: the observer hears of no start then.
        """
        with self._lock:
            if self._crew is not None:
                self._crew.restart(index)

    def kill_one(self, index: int) -> None:
        """Kill the process of job `index` with SIGKILL; the others go on. Safe from any thread."""
        with self._lock:
            if self._crew is not None:
                self._crew.kill_one(index)
