"""Fuzz what reads bytes of the network, for as long as it is given: `python -m tests.fuzz --minutes N --target NAME`.

Findings are written to `outputs/fuzz/TARGET-NUMBER`, which `--input FILE` runs again; the exit status is 1 if there are any.
"""

import argparse
import hashlib
import importlib.util
import logging
import subprocess
import sys
from pathlib import Path

from tests.fuzz.engine import Target, fuzz, problem_of
from tests.fuzz.targets import TARGETS

FOUND = Path("outputs") / "fuzz"


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz everything that reads bytes of the network.")
    parser.add_argument("--minutes", type=float, default=1.0, help="for each target (default 1)")
    parser.add_argument("--target", action="append", choices=sorted(TARGETS), help="only this one; may be given again")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn (default 0)")
    parser.add_argument("--engine", choices=("own", "atheris"), default="own", help="atheris: libFuzzer, if it is installed")
    parser.add_argument("--input", type=Path, help="run this one input through the target and nothing else")
    return parser.parse_args()


def main() -> int:
    """Fuzz; returns the exit status."""
    logging.disable(logging.CRITICAL)  # refusals are what is asked for
    given = arguments()
    targets = [TARGETS[name]() for name in given.target or TARGETS]
    if given.input is not None:
        problems = [problem_of(target, given.input.read_bytes()) for target in targets]
        print("\n".join(each or "no problem" for each in problems))
        return int(any(problems))
    if given.engine == "atheris":
        return max(in_atheris(name, given.minutes, given.seed) for name in given.target or TARGETS)
    found = [run(target, given.minutes, given.seed) for target in targets]
    return int(any(found))


def run(target: Target, minutes: float, seed: int) -> bool:
    """Fuzz one target and print the counts; returns whether anything was found."""
    report = fuzz(target, seed=seed, seconds=60 * minutes)
    counts = f"{report.inputs} inputs, {report.kept} kept, {report.lines} lines reached, {len(report.findings)} findings"
    print(f"{target.name:12} {counts}", flush=True)
    for finding in report.findings:
        FOUND.mkdir(parents=True, exist_ok=True)
        path = FOUND / f"{target.name}-{hashlib.sha256(finding.data).hexdigest()[:12]}"
        path.write_bytes(finding.data)
        print(f"  {path}: {finding.what}", flush=True)
    return bool(report.findings)


def in_atheris(name: str, minutes: float, seed: int) -> int:
    """Let libFuzzer do it, in a process of its own; it ends the process that it runs in."""
    if importlib.util.find_spec("atheris") is None:
        print("the package atheris is not installed; `--engine own` needs none", file=sys.stderr)
        return 2
    FOUND.mkdir(parents=True, exist_ok=True)
    code = f"from tests.fuzz.in_atheris import main; main({name!r})"
    options = [f"-max_total_time={max(1, round(60 * minutes))}", f"-seed={seed + 1}", "-timeout=10", "-rss_limit_mb=4096"]
    return subprocess.run([sys.executable, "-c", code, *options, f"-artifact_prefix={FOUND}/{name}-"], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
