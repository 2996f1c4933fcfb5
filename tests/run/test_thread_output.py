"""What workers that share a process print and log, in a process of its own: descriptors 1 and 2 are changed for good."""

import subprocess
import sys
from pathlib import Path

HEAD = """
import faulthandler, logging, os, subprocess, sys, threading
from pathlib import Path
from flame_run.run.thread_output import ThreadOutput

def each(body):
    threads = [threading.Thread(target=body, args=(name,)) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
        thread.join()

def to(name):
    output.go_to(Path(name) / "worker.log")

output = ThreadOutput()
"""


def run(body: str, folder: Path) -> tuple[dict[str, str], str]:
    """Run `body` after `HEAD`; returns what each worker's log holds, and what came out of the process itself."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", HEAD + body],
        cwd=folder,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {path.parent.name: path.read_text() for path in folder.glob("*/worker.log")}, done.stdout + done.stderr


def test_prints_errors_and_logs_of_each_thread_are_in_its_own_file(tmp_path: Path) -> None:
    logs, outside = run(
        """
def body(name):
    to(name)
    print("out", name)
    print("err", name, file=sys.stderr)
    logging.getLogger("mine").info("log %s", name)
    sys.stdout.writelines(["lines ", name, "\\n"])
    sys.stdout.buffer.write(b"bytes " + name.encode() + b"\\n")
    sys.stdout.buffer.flush()
    subprocess.run(["echo", "child", name], stdout=sys.stdout, check=True)
    print("after", name)

each(body)
output.restore()
print("restored")
""",
        tmp_path,
    )
    for name in "abc":
        lines = logs[name].splitlines()
        assert lines.pop(2).endswith(f" INFO mine: log {name}")
        assert lines[:6] == [f"{what} {name}" for what in ("out", "err", "lines", "bytes", "child", "after")]
        assert lines[6:] == ["restored"] * (name == "a")
    assert outside == ""


def test_what_is_nobodys_is_in_the_first_file(tmp_path: Path) -> None:
    logs, outside = run(
        """
print("before", flush=True)

def body(name):
    to(name)
    thread = threading.Thread(target=lambda: print("helper of", name))
    thread.start()
    thread.join()
    os.write(2, b"native " + name.encode() + b"\\n")
    subprocess.run(["echo", "heir", name], check=True)

each(body)
print("main")
""",
        tmp_path,
    )
    expected = [f"{what} {name}" for name in "abc" for what in ("helper of", "native", "heir")]
    assert logs == {"a": "\n".join([*expected, "main", ""]), "b": "", "c": ""}
    assert outside == "before\n"


def test_it_answers_what_libraries_ask_of_an_output(tmp_path: Path) -> None:
    logs, _ = run(
        """
def body(name):
    to(name)
    assert sys.stdout.encoding.lower() == "utf-8"
    assert not sys.stdout.isatty() and sys.stdout.writable()
    assert os.fstat(sys.stdout.fileno()).st_size == 0
    sys.stdout.reconfigure(line_buffering=True)
    faulthandler.enable()
    handler = logging.StreamHandler(sys.stdout)
    handler.emit(logging.makeLogRecord({"msg": "handled " + name}))
    print("\\udc80 is no text")
    sys.stdout.close()
    print("goes on")

each(body)
""",
        tmp_path,
    )
    assert logs == {name: f"handled {name}\n\\udc80 is no text\ngoes on\n" for name in "abc"}


def test_a_file_stays_open_when_its_thread_has_ended_and_a_later_thread_has_its_own(tmp_path: Path) -> None:
    logs, _ = run(
        """
kept = {}

def body(name):
    to(name)
    kept[name] = sys.stdout.fileno()
    print("begun by", name, end="")

each(body)
for name, descriptor in kept.items():
    output.flush_all()
    os.write(descriptor, b" and ended\\n")
threading.Thread(target=print, args=("a stranger",)).start()
""",
        tmp_path,
    )
    assert logs == {"a": "begun by a and ended\na stranger\n", "b": "begun by b and ended\n", "c": "begun by c and ended\n"}
