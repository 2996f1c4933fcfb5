"""What a person sees, on a terminal and without one."""

import io

import pytest
from rich.console import Console

from flame_run.run.display import LiveDisplay, PlainDisplay, make_display


@pytest.fixture
def rows(record):
    return [record(worker="aggregator-0", role="aggregator"), *(record(worker=f"trainer-{index}") for index in range(100))]


def test_without_a_terminal_there_is_one_line_per_round_and_the_table_at_the_end(rows):
    out = io.StringIO()
    display = make_display("mnist", 2, out)
    assert isinstance(display, PlainDisplay)
    for round_ in (1, 2):
        display.update(rows, {"trainer-0": (1, 2)})
        display.metrics(round_, {"loss": 0.51234567, "accuracy": 0.9})
    display.message("a warning [with brackets]")
    display.close()
    display.close()
    lines = out.getvalue().splitlines()
    assert lines[0] == "mnist: 101 workers (1 aggregator, 100 trainer)"
    assert lines[1].startswith("round 1/2: loss 0.5123  accuracy 0.9 (")
    assert lines[2].startswith("round 2/2: ")
    assert lines[3] == "a warning [with brackets]"
    assert lines[4].startswith("job id")
    assert len(lines) == 5 + 101


def test_roots_are_named_where_there_are_several():
    out = io.StringIO()
    display = make_display("mnist", None, out)
    display.metrics(3, {"loss": 0.5}, root="aggregator-1")
    display.close()
    assert out.getvalue().startswith("aggregator-1, round 3: loss 0.5 (")


def terminal(height=200):
    return Console(file=io.StringIO(), force_terminal=True, width=100, height=height, color_system=None, legacy_windows=False)


def test_on_a_terminal_the_table_shows_every_task_with_rounds_epochs_and_metrics(record):
    console = terminal()
    display = LiveDisplay("job [x]", 5, console)
    display.update([record(worker="trainer-0", state="failed", round=3)], {"trainer-0": (1, 2)})
    display.metrics(2, {"loss": 0.5})
    with console.capture() as capture:
        console.print(display._render())
    display.close()
    text = capture.get()
    for part in ("job [x]  round 3 of 5", "round 2: loss 0.5", "trainer-0", "failed", "1/2", "b" * 10):
        assert part in text


def test_more_tasks_than_the_screen_holds_are_summed_by_role(rows):
    console = terminal(height=20)
    display = LiveDisplay("job", None, console)
    display.update(rows)
    with console.capture() as capture:
        console.print(display._render())
    display.close()
    assert "100 running" in capture.get()
    assert "trainer-99" not in capture.get()


def test_what_stays_on_the_terminal_ends_with_the_task_table(record):
    console = terminal()
    display = LiveDisplay("job", 5, console)
    display.update([record(worker="trainer-0", state="completed")])
    display.message("[warning] kept as it is")
    display.close()
    display.close()
    lines = [line for line in console.file.getvalue().splitlines() if line.strip()]
    assert any("[warning] kept as it is" in line for line in lines)
    assert lines[-1].endswith("trainer-0")
    assert "completed" in lines[-1]


def test_messages_while_the_table_is_live_do_not_disturb_it(record):
    console = terminal()
    display = LiveDisplay("job", 5, console)
    for index in range(20):
        display.update([record(round=index)])
        display.message(f"line {index}")
    display.close()
    assert all(f"line {index}" in console.file.getvalue() for index in range(20))
