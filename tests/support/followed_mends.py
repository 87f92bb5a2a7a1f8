"""Following a mend: the failure, the advice in its message, what it advises, and the next run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.cli.program import run
from merge_core.errors import MergeflowError
from tests.support.mends import ROOT, pattern_of

TABLES = ROOT / "tests" / "field" / "mends" / "tables"
Run = tuple[Any, ...]
"""A command's arguments, or a function and its own."""
REASONS = {
    "gpu": "a GPU that runs out of memory",
    "postgresql": "a PostgreSQL server",
    "redis": "a Redis server",
    "dask": "a Dask cluster",
    "install": "a package that is installed, or not, while the tests run",
    "hub": "the real Hub: gated, private or damaged repositories",
    "docker": "a container, or a user that the system does not know",
    "other-user": "another user, or root",
    "other-machine": "workers on other machines",
    "disk": "a disk that fails, is full or read-only just then",
    "race": "a change in the middle of a read or a rename, at that very moment",
    "bug": "a library or a fault of mergeflow's own that does not occur on demand",
    "advice-is-human": "asking a publisher, training again: nothing that a program can do",
}
"""Why no test follows a mend."""


@dataclass(frozen=True)
class Row:
    """One template: the test that follows it, or why none does, or that none does yet."""

    mend: str
    test: str | None = None
    cannot: str | None = None
    todo: bool = False


@cache
def table() -> tuple[Row, ...]:
    """Every row of every table, in order."""
    texts = (path.read_text() for path in sorted(TABLES.glob("*.yaml")))
    return tuple(Row(**values) for text in texts for values in yaml.safe_load(text))


class RefusedError(Exception):
    """What a command wrote that ended with another exit status than 0."""


@dataclass
class Shell:
    """`mergeflow ARGUMENTS`, in this process."""

    captured: pytest.CaptureFixture[str]

    def __call__(self, *arguments: object) -> str:
        """Returns what the command wrote; raises `RefusedError` with it where it failed."""
        self.captured.readouterr()
        status = run([str(each) for each in arguments])
        written = self.captured.readouterr()
        assert "bug in mergeflow" not in written.err, written.err
        if status:
            raise RefusedError(written.err + written.out)
        return written.err + written.out


@dataclass(frozen=True)
class Later:
    """A run that is to fail, with another message than before."""

    message: str
    run: Run


Step = Run | Later


@dataclass
class Advice:
    """What was said to one test, beside what the tables say that it follows."""

    mends: list[str]
    said: list[str] = field(default_factory=list)

    def follow(self, mergeflow: Shell, steps: Iterator[Step]) -> None:
        """Run a situation: its first run says the mends, its second works, or gets further.

        Args:
            steps: makes the situation and yields the run; then does what is advised, and yields the
                next run. A run is a command's arguments, or a function and its own; `Later` stands
                for one that is to fail with another message.
        """
        try:
            self.said.append(_text(_run(mergeflow, next(steps))()))
        except (MergeflowError, RefusedError) as error:
            self.said.append(str(error))
        step = next(steps)
        if isinstance(step, Later):
            self.further(step.message, _run(mergeflow, step))
        else:
            self.helped(_run(mergeflow, step))
        for _ in steps:
            pytest.fail("a situation has two runs")

    def refused(self, call: Callable[..., Any], *arguments: Any, **named: Any) -> str:
        """A call that must fail; returns its message."""
        try:
            call(*arguments, **named)
        except (MergeflowError, RefusedError) as error:
            self.said.append(str(error))
            return str(error)
        pytest.fail("nothing was refused")

    def warned(self, call: Callable[..., Any], *arguments: Any, **named: Any) -> str:
        """A call that must work, and says something; returns it."""
        text = _text(call(*arguments, **named))
        self.said.append(text)
        return text

    def helped(self, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """The call after the advice was followed: it works, and does not give the advice again."""
        self.check_said()
        try:
            result = call(*arguments, **named)
        except (MergeflowError, RefusedError) as error:
            pytest.fail(f"the advice does not help: {error}")
        self._not_again(_text(result))
        return result

    def further(self, later: str, call: Callable[..., Any], *arguments: Any, **named: Any) -> None:
        """The call after the advice was followed: it fails with another, later message."""
        self.check_said()
        with pytest.raises((MergeflowError, RefusedError)) as caught:
            call(*arguments, **named)
        self._not_again(str(caught.value))
        said = " ".join(str(caught.value).split())
        assert later in said, said

    def check_said(self) -> None:
        """What the tables say this test follows was said; without a row, any mend."""
        said = "\n".join(self.said)
        if not self.mends:
            known = (row.mend for row in table())
            self.mends = [each for each in known if pattern_of(each).search(said)]
            assert self.mends, f"no mend: {said}"
        missing = [each for each in self.mends if not pattern_of(each).search(said)]
        assert not missing, f"not said: {missing}\nbut: {said}"

    def _not_again(self, text: str) -> None:
        again = [each for each in self.mends if pattern_of(each).search(text)]
        assert not again, f"said again: {again}\nin: {text}"


def _text(result: Any) -> str:
    if isinstance(result, list | tuple):
        return "\n".join(map(str, result))
    return str(result)


def _run(mergeflow: Shell, step: Step) -> Callable[[], Any]:
    first, *rest = step.run if isinstance(step, Later) else step
    return partial(first, *rest) if callable(first) else partial(mergeflow, first, *rest)


def mends_of(test: str) -> list[str]:
    """The templates that the tables say a test follows.

    Args:
        test: `path::function`, with the parameters in brackets.
    """
    return [row.mend for row in table() if row.test == test]


def test_named(nodeid: str, path: Path) -> str:
    """The name that the tables know a test by."""
    return f"{path.relative_to(ROOT)}::{nodeid.split('::', 1)[1]}"
