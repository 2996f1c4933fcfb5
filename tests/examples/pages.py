"""Reads the README files: their blocks, their commands, the files that they show."""

import re
import shlex
from dataclasses import dataclass
from itertools import product
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "examples"
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
STATUS = re.compile(r"#\s*exit status (\d+)")


def blocks(readme: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return [text for kind, text in FENCED.findall(readme.read_text(encoding="utf-8")) if kind == language]


@dataclass(frozen=True)
class Command:
    """A `flame-run` command as a page shows it."""

    words: tuple[str, ...]
    status: int
    """The exit status that the page promises."""

    @property
    def is_job(self) -> bool:
        """Whether it composes a job: not a verb about a run, no flag that only prints."""
        return self.words[0] == "plan" or "=" in self.words[0] or self.words[0] in ("-m", "--config-dir")

    def plans(self) -> list[list[str]]:
        """The words of `flame-run plan` for the same job, or for each job of a sweep."""
        words = [word for word in self.words if word != "plan"]
        if "-m" not in words:
            return [words]
        of_job = [word for word in words if word != "-m" and not word.startswith("hydra")]
        choices = [[f"{key}={value}" for value in values.split(",")] for key, _, values in (word.partition("=") for word in of_job)]
        return [list(chosen) for chosen in product(*choices)]


def commands(readme: Path) -> list[Command]:
    """The `flame-run` commands of a page."""
    lines = [line for text in blocks(readme, "sh") for line in text.splitlines() if line.startswith("flame-run ")]
    found = []
    for line in lines:
        status = STATUS.search(line)
        found.append(Command(tuple(shlex.split(line, comments=True)[1:]), int(status[1]) if status else 0))
    return found


def tour(readme: Path, folder: Path) -> None:
    """Write the files that a page shows under "`NAME.yaml` says ..." into `folder`."""
    for name, text in re.findall(
        r"`([\w/]+\.yaml)` says[^\n]*\n\n```yaml\n(.*?)^```$", readme.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
