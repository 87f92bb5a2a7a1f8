"""What an audit says: of each thing that it looked at, whether it holds."""

from __future__ import annotations

from typing import Literal

from merge_core.findings import printable
from merge_core.records import Record

Outcome = Literal["holds", "fails", "unknown"]


class Answer(Record):
    """One thing that was looked at."""

    check: str
    """The name of the check: `files`, `description`, `run` ..."""
    outcome: Outcome
    """`unknown`: it could not be looked at; `what` says why."""
    what: str


class AuditReport(Record):
    """The audit of one version."""

    model_uri: str
    digest: str | None
    answers: tuple[Answer, ...]

    @property
    def holds(self) -> bool:
        """Whether nothing fails. What could not be looked at is no failure."""
        return not any(answer.outcome == "fails" for answer in self.answers)

    def of(self, outcome: Outcome) -> list[Answer]:
        """The answers with one outcome."""
        return [answer for answer in self.answers if answer.outcome == outcome]


class Answers:
    """Collects the answers of one check."""

    def __init__(self, check: str) -> None:
        self._check = check
        self.given: list[Answer] = []

    def holds(self, what: str) -> None:
        """Something is as it was recorded."""
        self._give("holds", what)

    def fails(self, what: str) -> None:
        """Something is not as it was recorded."""
        self._give("fails", what)

    def unknown(self, what: str) -> None:
        """Something could not be looked at."""
        self._give("unknown", what)

    def same(self, what: str, said: object, expected: object, by: str) -> bool:
        """Compare two records of one thing; only a difference is told.

        Args:
            what: the thing, with who says it: `the run's tag digest`.
            by: who says `expected`.
        """
        if said == expected:
            return True
        self.fails(f"{what} is {_short(said)}, but {by} says {_short(expected)}")
        return False

    @property
    def failed(self) -> bool:
        """Whether anything fails so far."""
        return any(answer.outcome == "fails" for answer in self.given)

    def _give(self, outcome: Outcome, what: str) -> None:
        self.given.append(Answer(check=self._check, outcome=outcome, what=printable(what, 500)))


def _short(value: object) -> str:
    return "missing" if value in (None, "") else printable(value, 100)
