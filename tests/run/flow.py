"""A job as the supervisor sees it, driven by hand: without processes and without a clock."""

from flame_run.control import events as control
from flame_run.run import events as run
from flame_run.run.faults import FaultsConf
from flame_run.run.supervisor import Supervisor
from flame_run.run.winding_up import Graces

GRACES = Graces(judge=1.0, abort=3.0, exit=10.0, kill=5.0)
NAMES = ("aggregator-0", "trainer-0", "trainer-1")


class Job:
    """A supervisor and everything it answered; `at` is the time now."""

    def __init__(self, plan, *, faults=None, **options):
        self.supervisor = Supervisor(plan, faults=faults or FaultsConf(join_timeout=60.0), graces=GRACES, **options)
        self.at = 0.0
        self.actions = self.supervisor.begin(0.0, 1000.0)

    def __call__(self, event, after=0.0):
        self.at += after
        actions = self.supervisor.handle(event, self.at)
        self.actions += actions
        return actions

    def process(self, worker, what, after=0.0, pid=None):
        return self(run.ProcessEvent(worker=worker, pid=pid or self.pid(worker), what=what, time=self.time), after)

    @staticmethod
    def pid(worker):
        """Process id of a worker's first process."""
        return NAMES.index(worker) + 10

    def state(self, worker, state, after=0.0, **values):
        return self(control.StateChanged(worker=worker, state=state, time=self.time, **values), after)

    def lost(self, worker, reason="the connection broke", after=0.0):
        return self(control.SessionLost(worker=worker, reason=reason, time=self.time), after)

    def tick(self, after):
        return self(run.Tick(time=self.time), after)

    def returned(self, *results):
        return self(run.LaunchReturned(results=results, time=self.time))

    @property
    def time(self):
        return 1000.0 + self.at

    @property
    def finish(self):
        found = [action for action in self.actions if isinstance(action, run.Finish)]
        assert len(found) <= 1
        return found[0] if found else None

    def of(self, kind):
        return [action for action in self.actions if isinstance(action, kind)]

    def history(self, worker):
        records = (action.record for action in self.of(run.RecordTask))
        return [(record.state, record.round) for record in records if record.worker == worker]

    @property
    def states(self):
        return {task.worker: task.state for task in self.supervisor.tasks()}

    def join(self, *workers, processes=True, pid=None):
        for name in workers or NAMES:
            if processes:
                self.process(name, "started", pid=pid)
            self(control.Registered(worker=name, pid=pid or self.pid(name), host="here", time=self.time))
            self(control.Ready(worker=name, address=None, time=self.time))
        return self

    def running(self, round_: int = 1, *, processes: bool = True) -> "Job":
        self.join(processes=processes)
        for name in NAMES:
            self.state(name, "running", round=round_)
        return self

    def leave(self, *workers):
        for name in workers or NAMES:
            self(control.SessionClosed(worker=name, time=self.time))
            self.process(name, "exit 0")

    def complete(self, *workers):
        for name in workers:
            self.state(name, "completed")
            self(control.SessionClosed(worker=name, time=self.time))
            self.process(name, "exit 0", pid=next(task.pid for task in self.supervisor.tasks() if task.worker == name))
