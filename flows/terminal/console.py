"""The terminal while a command works: one line a step, progress bars, one clear error.

On a terminal progress is a live bar with bytes, rate and time left; elsewhere it is a plain line
every few seconds, so that a log stays readable.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console, JustifyMethod
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from merge_core.errors import MergeflowError, without_passwords
from merge_core.files.private import open_private
from merge_core.findings import Finding
from merge_core.homes.home import Home
from merge_core.progress import WAITS, Progress, ProgressEvent
from merge_core.text.plain import plain, plain_json, plain_lines

_PLAIN_AFTER = 5.0
_PIPE_WIDTH = 160
_LONGEST_CELL, _LONGEST_LABEL = 1000, 60
LOGGER = "mergeflow"
"""Logger of flows and tasks: a record of `mergeflow.steps` has `step`, `subject` and `outcome`."""


class Terminal:
    """Where a command writes: results on stdout; progress and notes beside them, out of the way.

    With `machine`, stdout carries nothing but one JSON value at the end.
    """

    def __init__(self, *, machine: bool = False) -> None:
        self.machine = machine
        self.results = _console()
        self.notes = _console(stderr=machine)
        self._live = Console(stderr=True)

    @property
    def watched(self) -> bool:
        """Whether output goes to a terminal, and into no file or pipe."""
        return self.notes.file.isatty()

    def say(self, text: str = "", style: str | None = None) -> None:
        """A line for people: on one line, and plain, whatever is in it."""
        self.notes.print(Text(plain(text), style or ""))

    def say_lines(self, text: str) -> None:
        """A text whose lines are ours: a formula, a recipe, a tree."""
        for line in text.split("\n"):
            self.notes.print(Text(plain(line, None)))

    def warn(self, said: str | Finding) -> None:
        """Something that is allowed but may not be meant, on stderr."""
        text = plain_lines(str(said)) if isinstance(said, Finding) else plain(said)
        shown = Text.assemble(("warning:", "yellow"), " ", text)
        _console(stderr=True).print(shown)

    def give(self, value: Any) -> None:
        """The result of a command for a machine, as JSON on stdout."""
        sys.stdout.write(plain_json(json.dumps(value, indent=2, ensure_ascii=False)) + "\n")

    @contextlib.contextmanager
    def progress(self) -> Iterator[Progress]:
        """A listener that shows progress while the block runs."""
        if self._live.is_terminal and os.environ.get("TERM") != "dumb":
            with _live_bars(self._live) as listener:
                yield listener
        else:
            yield _PlainLines()

    @contextlib.contextmanager
    def steps(self) -> Iterator[None]:
        """Show each pipeline step as a line while the block runs."""
        handler = _StepLines(self)
        logger = logging.getLogger(LOGGER)
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)


def explain(error: MergeflowError) -> None:
    """A user's error on stderr: what, where, what to do."""
    _console(stderr=True).print(Text.assemble(("error:", "bold red"), " ", plain_lines(str(error))))


def explain_bug(error: BaseException) -> None:
    """An error that is ours, on stderr, with its traceback in a log file."""
    log = Home.if_believed().logs / "crash.log"
    command = without_passwords(" ".join(sys.argv[1:]))
    entry = f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {command}\n" + without_passwords(
        "".join(traceback.format_exception(error))
    )
    with contextlib.suppress(OSError), os.fdopen(open_private(log), "ab") as file:
        file.write(entry.encode(errors="backslashreplace"))
    said = without_passwords(str(error))[:300]
    words = f" this is a bug in mergeflow: {type(error).__name__}: {plain(said)}\n"
    mend = f"  what to do: report it with the end of {plain(log)}"
    _console(stderr=True).print(Text.assemble(("error:", "bold red"), words, mend))


def literal(value: float | bool | str) -> str:
    """A parameter's value as it is written in a recipe."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)


def seconds(duration: float) -> str:
    """A duration for people: `0.4 s`, `12 s`, `3 min 05 s`."""
    if duration < 10:
        return f"{duration:.1f} s"
    if duration < 60:
        return f"{duration:.0f} s"
    return f"{int(duration) // 60} min {int(duration) % 60:02d} s"


def pace(rate: float, unit: str = "") -> str:
    """So many a second, for people; of what takes longer than a second, how long each takes."""
    return f"{rate:,.0f}{unit}/s" if rate >= 1.0 else f"{seconds(1.0 / rate)} each"


def size(count: float) -> str:
    """A number of bytes for people: `2.5 GB`."""
    for unit in ("bytes", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def cell(text: object, style: str = "") -> Text:
    """A text in a table, or as a part of a line: no markup, no line's end, nothing to obey."""
    return Text(plain(text, _LONGEST_CELL), style)


def table_of(
    *columns: str, right: Collection[str] = (), wraps: Collection[str] = (), edge: bool = False
) -> Table:
    """A table without rules: the columns in `right` are aligned there, those in `wraps` may wrap;
    with `edge` it stands a space away from the margin."""
    table = Table(box=None, pad_edge=edge, header_style="bold")
    for name in columns:
        side: JustifyMethod = "right" if name in right else "left"
        table.add_column(cell(name), justify=side, no_wrap=name not in wraps)
    return table


def add_row(table: Table, *cells: object) -> None:
    """Add a row to a table; cells that are no rich text yet become plain text."""
    table.add_row(*(each if isinstance(each, Text) else cell(each) for each in cells))


def shown_path(path: str | Path) -> str:
    """A path relative to the current directory where that is shorter."""
    with contextlib.suppress(ValueError):
        return str(Path(path).relative_to(Path.cwd()))
    return str(path)


def _console(*, stderr: bool = False) -> Console:
    """Pipes and files get wide lines: nothing is cut for a terminal that is not there."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PIPE_WIDTH
    return Console(stderr=stderr, width=width, soft_wrap=True, highlight=False)


class _StepLines(logging.Handler):
    def __init__(self, terminal: Terminal) -> None:
        super().__init__(logging.INFO)
        self._terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        subject, outcome = getattr(record, "subject", ""), getattr(record, "outcome", "")
        step = getattr(record, "step", None)
        if record.name == f"{LOGGER}.progress":
            return  # for logs that nobody watches; here progress is shown as it happens
        if step is None:
            noted = record.levelno >= logging.WARNING
            self._terminal.say(f"    {record.getMessage()}", style="yellow" if noted else "dim")
            return
        style = {"failed": "red"}.get(outcome)
        self._terminal.say(f"  {step:<10}{subject:<30}{outcome}", style=style)


class _PlainLines:
    """Progress for logs and pipes: a line after five seconds of a stage, then ever less often; of
    waiting at once. A stage that is over, or has less done than before, begins anew."""

    def __init__(self) -> None:
        self._started: dict[str, tuple[float, int]] = {}
        self._due: dict[str, float] = {}
        self._done: dict[str, int] = {}

    def __call__(self, event: ProgressEvent) -> None:
        if event.done < self._done.get(event.stage, 0):
            self._forget(event.stage)
        self._done[event.stage] = event.done
        self._show(event)
        if event.done >= event.total and event.unit != WAITS:
            self._forget(event.stage)

    def _forget(self, stage: str) -> None:
        for known in (self._started, self._due, self._done):
            known.pop(stage, None)

    def _show(self, event: ProgressEvent) -> None:
        now = time.monotonic()
        started, before = self._started.setdefault(event.stage, (now, event.done))
        first = started if event.unit == WAITS else started + _PLAIN_AFTER
        if now < self._due.setdefault(event.stage, first):
            return
        self._due[event.stage] = started + max(_PLAIN_AFTER, 2 * (now - started))
        stage = plain(event.stage, _LONGEST_CELL)
        sys.stderr.write(f"    {stage}: {_how_far(event, before, now - started)}\n")
        sys.stderr.flush()


def _how_far(event: ProgressEvent, before: int, elapsed: float) -> str:
    """What is done, how fast and how much longer; what was done `before` says nothing of that."""
    if event.unit == WAITS:
        return f"for {seconds(elapsed)}"
    is_of_bytes = event.unit == "bytes"
    percent = 100.0 * event.done / max(event.total, 1)
    done = f"{event.done:,} of {event.total:,} {event.unit}"
    if is_of_bytes:
        done = f"{percent:.0f} % of {size(event.total)}"
    rate = (event.done - before) / elapsed if elapsed else 0.0
    if not rate:
        return done
    left = (
        f", {seconds((event.total - event.done) / rate)} left" if event.done < event.total else ""
    )
    return f"{done}, {f'{size(rate)}/s' if is_of_bytes else pace(rate)}{left}"


class _ByKind(ProgressColumn):
    """One column for bytes, another for counted things."""

    def __init__(self, of_bytes: ProgressColumn, of_things: ProgressColumn) -> None:
        super().__init__()
        self._of_bytes, self._of_things = of_bytes, of_things

    def render(self, task: Task) -> Text:
        column = self._of_bytes if task.fields["unit"] == "bytes" else self._of_things
        shown = column.render(task)
        assert isinstance(shown, Text)  # both columns are of those that render text
        return shown


class _ThingsPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(pace(speed, f" {task.fields['unit']}") if speed else "")


@contextlib.contextmanager
def _live_bars(console: Console) -> Iterator[Progress]:
    bars = Bars(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        _ByKind(DownloadColumn(), MofNCompleteColumn()),
        _ByKind(TransferSpeedColumn(), _ThingsPerSecond()),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
    )
    known: dict[str, TaskID] = {}

    def listen(event: ProgressEvent) -> None:
        if event.stage not in known:
            label = plain(event.stage, _LONGEST_LABEL)
            known[event.stage] = bars.add_task(label, total=event.total, unit=event.unit)
        bars.update(known[event.stage], completed=event.done, total=event.total)
        if event.done >= event.total:
            bars.remove_task(known.pop(event.stage))

    with bars:
        yield listen
