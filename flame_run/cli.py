"""The command line: `flame-run [VERB] [overrides]`. Imports nothing heavy before it knows what to do."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from flame_run.errors import FlameRunError, InvalidConfig, Problem

if TYPE_CHECKING:
    from omegaconf import DictConfig

USAGE = """\
flame-run {version}: declarative federated and distributed learning

  flame-run [overrides]            run a job, for example  flame-run experiment=mnist_two_tier job.hyperparameters.rounds=3
  flame-run -m key=a,b [overrides] run a sweep, one run for each combination
  flame-run plan [overrides]       validate and show the workers, start nothing  (--json, --mermaid)
  flame-run tasks RUN_DIR          the task table of a run, live or over
  flame-run stop RUN_DIR           end a run
  flame-run resume RUN_DIR [overrides]  go on with a run from its newest checkpoint
  flame-run track RUN_DIR          deliver to MLflow what a run could not
  flame-run join ADDRESS --worker NAME --bundle DIR [overrides]
                                   be one worker of a job of launcher=external, with this site's own data
  flame-run token DIR              write a job token to DIR/token, for security.token_file and the bundles of sites
  flame-run certs DIR [overrides]  make a CA and a certificate for each worker  (--list, --renew NAME, --revoke NAME, --days N)
  flame-run --help | --version | --hydra-help | --cfg job | --info all

experiments (experiment=NAME)
{experiments}

groups (GROUP=OPTION)
{groups}

Exit status: 0 completed, 1 failed, 2 invalid configuration, 130 interrupted.
"""


def _help() -> str:
    from flame_run.config.folder import conf_dir, groups, options  # noqa: PLC0415 - only the verb that needs it pays for it

    lines = []
    for name in options("experiment"):
        text = (conf_dir() / "experiment" / f"{name}.yaml").read_text(encoding="utf-8")
        about = next((line.removeprefix("# about:").strip() for line in text.splitlines() if line.startswith("# about:")), "")
        lines.append(f"  {name:<24}{about}".rstrip())
    listed = [f"  {group:<24}{', '.join(options(group))}" for group in groups() if group != "experiment"]
    return USAGE.format(version=version("flame-run"), experiments="\n".join(lines), groups="\n".join(listed))


def _run(arguments: Sequence[str]) -> int:
    _start_imports(arguments)
    from flame_run.config.app import call_with_config  # noqa: PLC0415
    from flame_run.run.job import run  # noqa: PLC0415

    call_with_config(run, arguments)
    return 0


def _start_imports(arguments: Sequence[str]) -> None:
    """Let the fork server import beside the composing and checking, where its workers are likely to be wanted.

    It ends with this process, also when nothing comes of the job.
    """
    shows_only = any(word.startswith("-") and word not in ("-m", "--multirun") for word in arguments)
    other = any(word.startswith("launcher=") and word not in ("launcher=local", "launcher=cohort") for word in arguments)
    if not (shows_only or other):
        from flame_run.launch.forking import warm  # noqa: PLC0415

        warm()


def _plan(arguments: Sequence[str]) -> int:
    from flame_run.config.app import call_with_config  # noqa: PLC0415
    from flame_run.run.show import show_plan  # noqa: PLC0415

    forms = [word for word in arguments if word in ("--json", "--mermaid")]
    rest = [word for word in arguments if word not in forms]
    nothing_written = ["hydra.output_subdir=null", "hydra.run.dir=.", "hydra/job_logging=none", "hydra/hydra_logging=none"]
    shown: list[str] = []
    form = forms[-1].lstrip("-") if forms else "text"

    def show(cfg: "DictConfig") -> None:
        shown.append(show_plan(cfg, form))

    if {"-m", "--multirun"} & set(rest):
        raise InvalidConfig([Problem("flame-run plan", "-m", "a plan is of one job; leave -m out and give each key one value")])
    call_with_config(show, rest, nothing_written)
    print("\n".join(shown))  # noqa: T201
    return 0


def _tasks(arguments: Sequence[str]) -> int:
    from flame_run.run.tasks import print_tasks  # noqa: PLC0415

    return print_tasks(_folder("tasks", arguments))


def _stop(arguments: Sequence[str]) -> int:
    from flame_run.run.tasks import stop  # noqa: PLC0415

    return stop(_folder("stop", arguments))


def _resume(arguments: Sequence[str]) -> int:
    from flame_run.run.resume import resume  # noqa: PLC0415

    return resume(arguments)


def _track(arguments: Sequence[str]) -> int:
    from flame_run.track.sync import sync  # noqa: PLC0415

    result = sync(_folder("track", arguments))
    for warning in result.warnings:
        print(f"flame-run: {warning}", file=sys.stderr)  # noqa: T201
    print(f"{result.unsent} records unsent; {result.ui_command}")  # noqa: T201
    return 1 if result.unsent else 0


def _join(arguments: Sequence[str]) -> int:
    from flame_run.join.join import join  # noqa: PLC0415

    return join(arguments)


def _token(arguments: Sequence[str]) -> int:
    from flame_run.join.bundle import make_token  # noqa: PLC0415

    if len(arguments) != 1:
        raise InvalidConfig([Problem("flame-run token", " ".join(arguments), "takes one argument: the folder to write it to")])
    print(make_token(Path(arguments[0])))  # noqa: T201
    return 0


def _certs(arguments: Sequence[str]) -> int:
    from flame_run.security.certs import certs  # noqa: PLC0415

    print(certs(arguments))  # noqa: T201
    return 0


def _folder(verb: str, arguments: Sequence[str]) -> Path:
    if len(arguments) != 1:
        raise InvalidConfig([Problem(f"flame-run {verb}", " ".join(arguments), "takes one argument: the folder of a run")])
    return Path(arguments[0])


VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "run": _run,
    "plan": _plan,
    "tasks": _tasks,
    "stop": _stop,
    "resume": _resume,
    "track": _track,
    "join": _join,
    "token": _token,
    "certs": _certs,
}


def _call(words: Sequence[str]) -> int:
    """Run the verb that comes first, or a job.

    Raises:
        InvalidConfig: the first word is neither a verb nor an override.
    """
    first = words[0] if words else ""
    if first in VERBS:
        return VERBS[first](words[1:])
    if first and not first.startswith(("-", "+", "~")) and "=" not in first:
        from flame_run.config.hydra_errors import nearest  # noqa: PLC0415

        raise InvalidConfig(
            [Problem("flame-run", first, "neither a verb nor an override (key=value)", nearest(first, sorted(VERBS)))]
        )
    return _run(words)


def _open_standard_streams() -> None:
    """Give a program that was started without standard streams (`>&-`) the null device, so that nothing else gets their numbers."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False, encoding="utf-8"))  # noqa: SIM115


def _interrupt(number: int, _: object) -> None:
    """SIGTERM ends the command like Ctrl-C, also before a run takes it over."""
    raise KeyboardInterrupt(signal.Signals(number).name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the console script; returns the exit status."""
    _open_standard_streams()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in ("--version", "-V"):
        print(f"flame-run {version('flame-run')}")  # noqa: T201
        return 0
    if "--help" in words or "-h" in words:
        print(_help(), end="")  # noqa: T201
        return 0
    try:
        return _call(words)
    except FlameRunError as error:
        print(f"flame-run: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_status
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("flame-run: interrupted", file=sys.stderr)  # noqa: T201
        return 130
