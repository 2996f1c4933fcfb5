"""Measures that a script takes in a process of its own."""

import json
import subprocess
import sys
from typing import Any

from tests.benchmarks.command import REPOSITORY, TIMEOUT


def measured_by(module: str, **options: Any) -> Any:
    """The JSON that `python -m MODULE --KEY VALUE ...` prints.

    Raises:
        SystemExit: it failed; the text is what it said.
    """
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    command = [sys.executable, "-m", module, *words]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])
