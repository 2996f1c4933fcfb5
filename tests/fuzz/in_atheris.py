"""The same targets for atheris, which is libFuzzer for Python: coverage of the bytecode of this project guides it."""

import importlib
import logging
import sys
import tempfile
from pathlib import Path


def main(name: str) -> None:
    """Fuzz the target `name` with the options of libFuzzer on the command line; ends the process."""
    logging.disable(logging.CRITICAL)
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["flame_run", "roles", "transports"]):
        targets = importlib.import_module("tests.fuzz.targets")
        target = targets.TARGETS[name]()
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(target.seeds):
            Path(corpus, str(number)).write_bytes(seed)
        atheris.Setup([sys.argv[0], *sys.argv[1:], corpus], target.run)
        atheris.Fuzz()
