"""What the command line imports has to be light; nothing of the control plane needs torch."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "lightning", "mlflow", "grpc"}


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    [
        ("flame_run.run.tasks, flame_run.run.faults, flame_run.run.folder, flame_run.run.supervisor, flame_run.run.display", HEAVY),
        ("flame_run.control.controller, flame_run.control.local_session, flame_run.control.rendezvous", HEAVY),
        ("flame_run.control.server, flame_run.control.grpc_session", HEAVY - {"grpc"}),
    ],
)
def test_these_modules_do_not_import_what_is_heavy(modules, forbidden):
    script = f"import sys, {modules}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    assert forbidden.isdisjoint(loaded)
