"""The long chaos suite: `python -m tests.chaos`, see `--help`. Prints counts, and each failed scenario with its command line.

The exit status is 1 if anything failed.
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tests.chaos.play import Played, Theatre
from tests.chaos.scenarios import POLICIES, RANDOM, Scenario, at_random, systematic
from tests.chaos.shapes import DATASETS, uncovered


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Kill and freeze workers and runners everywhere.")
    parser.add_argument("--only", action="append", metavar="SCENARIO", help="play this one; may be given again")
    parser.add_argument("--number", action="append", type=int, metavar="N", help="play the random scenario of this number")
    parser.add_argument("--random", type=int, default=RANDOM, metavar="COUNT", help=f"random scenarios (default {RANDOM})")
    parser.add_argument("--seed", type=int, default=0, help="of the random scenarios (default 0)")
    parser.add_argument("--topology", action="append", choices=sorted(DATASETS), help="only this one; may be given again")
    parser.add_argument("--policy", action="append", choices=POLICIES, help="only this one; may be given again")
    parser.add_argument("--every-fault", action="store_true", help="every fault everywhere, instead of by turns (a day)")
    parser.add_argument("--no-systematic", action="store_true", help="only the random ones")
    parser.add_argument("--jobs", type=int, default=2, help="scenarios at a time (default 2)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep everything in this folder")
    parser.add_argument("--list", action="store_true", help="name the scenarios and play none")
    return parser.parse_args(given)


def chosen(given: argparse.Namespace) -> list[Scenario]:
    """The scenarios that are asked for."""
    if given.only or given.number:
        named = [Scenario.parse(text) for text in given.only or ()]
        return named + [at_random(given.seed, number) for number in given.number or ()]
    found = [] if given.no_systematic else list(systematic(every_fault=given.every_fault))
    found += [at_random(given.seed, number) for number in range(given.random)]
    return [
        each
        for each in dict.fromkeys(found)
        if (not given.topology or each.topology in given.topology) and (not given.policy or each.policy in given.policy)
    ]


def main() -> int:
    """Play; returns the exit status."""
    given = arguments()
    scenarios = chosen(given)
    if given.list:
        print("\n".join(map(str, scenarios)))
        return 0
    print(f"{len(scenarios)} scenarios, seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        theatre = Theatre(given.keep or Path(folder), keep=given.keep is not None)
        played = _play(theatre, scenarios, given.jobs)
    report(played)
    for topology in uncovered():
        print(f"not covered: the topology {topology}; name a dataset for it in tests/chaos/shapes.py")
    return int(any(each.problems for each in played) or bool(uncovered()))


def _play(theatre: Theatre, scenarios: Sequence[Scenario], jobs: int) -> list[Played]:
    played = []
    pool = ThreadPoolExecutor(jobs)
    try:
        for count, future in enumerate(as_completed([pool.submit(theatre.play, each) for each in scenarios]), start=1):
            each = future.result()
            played.append(each)
            print(f"[{count}/{len(scenarios)}] {each.seconds:5.1f} s  {each.outcome:22} {each.scenario}", flush=True)
            for problem in each.problems:
                print(f"    WRONG: {problem}", flush=True)
    except KeyboardInterrupt:
        print("\ninterrupted; what is being played is played to its end", flush=True)
    finally:
        pool.shutdown(cancel_futures=True)
    return played


def report(played: Sequence[Played]) -> None:
    """Print how many scenarios had which outcome, by topology and policy, and those that failed."""
    counts = Counter((each.scenario.topology, _policy(each.scenario), each.outcome) for each in played)
    print(f"\n{'topology':22}{'policy':12}{'outcome':24}count")
    for (topology, policy, outcome), count in sorted(counts.items()):
        print(f"{topology:22}{policy:12}{outcome:24}{count}")
    wrong = [each for each in played if each.problems]
    print(f"\n{len(played) - len(wrong)} of {len(played)} scenarios as expected")
    for each in wrong:
        print(f"\nfailed: {each.scenario}\n  again: {each.command}")
        print("\n".join(f"  {problem}" for problem in each.problems))


def _policy(scenario: Scenario) -> str:
    return "(runner)" if scenario.of_runner else scenario.policy


if __name__ == "__main__":
    sys.exit(main())
