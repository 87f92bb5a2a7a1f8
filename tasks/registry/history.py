"""The history of one registered model in one home: a file of lines, each of which vouches for the
one before by its sha256.

`history/NAME-CHAIN.jsonl` in the home. The registry holds the head: how many lines there are, and
the digest of the last, as a tag of the registered model that is named after the chain. So a line
that was changed breaks the chain, and a tail that was cut is missed. Each home that moves the alias
of a model has a chain of its own; what other homes did is told where it is found.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from merge_core.errors import OutputError
from merge_core.files.bounded_json import parse_json
from merge_core.files.own_files import NotOursError, read_own
from merge_core.files.private import open_private
from merge_core.findings import printable
from merge_core.homes.home import Home
from merge_core.records import Record
from tasks.registry.client import TAG
from tasks.units import timestamp

HEAD_TAG = TAG + "history."
"""Begins the name of the tag with the head of a chain; the chain's name follows."""
Event = Literal["found", "intended", "moved", "not_moved", "kept", "pinned", "unpinned", "signed"]
_FIRST = "0" * 64
_LONGEST_FILE = 256 << 20
_NAME = re.compile(r"(?P<slug>.*)-(?P<chain>[0-9a-f]{16})\.jsonl")


class HistoryLine(Record):
    """One thing that happened, as it is written down."""

    number: int
    before: str
    """sha256 of the line before; zeros before the first."""
    at: str
    """ISO 8601, UTC."""
    event: Event
    """`found`: the alias is where no line of this history put it. `intended`, then `moved` or
    `not_moved`: a move. `kept`: a decision after which the alias stayed. `pinned`, `unpinned`.
    `signed`: a statement on `version` and its run, by `key`; the alias has no part in it."""
    registry: str
    """Address of the registry, without credentials; `embedded` and `stack` are the home's own."""
    model: str
    version: str | None = None
    """The version that has, gets or keeps the alias."""
    previous: str | None = None
    """The version that had it before."""
    candidate: str | None = None
    """The version that a run registered."""
    digest: str | None = None
    """Of the checkpoint of `version`."""
    how: str | None = None
    """`run`, `promote`, `rollback`, `unpin` or `another home`."""
    why: str | None = None
    by: str | None = None
    """The name that somebody typed; nobody has checked it."""
    run_id: str | None = None
    verdict: str | None = None
    files: str | None = None
    """sha256 of the list of the run's files (`files.json`), which so cannot be written anew without
    a new history."""
    completes: int | None = None
    """Number of the `intended` line that this one ends."""
    key: str | None = None
    """The id of the key that signed."""
    statement: str | None = None
    """sha256 of the statement's envelope."""


@dataclass(frozen=True)
class Head:
    """How far a chain goes: what the registry remembers of it."""

    number: int
    digest: str

    def __str__(self) -> str:
        return f"{self.number} {self.digest}"

    @classmethod
    def read(cls, text: str | None) -> Head | None:
        """A head from its tag; None for a text that is none."""
        found = re.fullmatch(r"(\d{1,9}) ([0-9a-f]{64})", text or "")
        return cls(int(found[1]), found[2]) if found else None


@dataclass
class History:
    """The lines of one chain, as far as they can be read, and what is wrong with them."""

    chain: str
    path: Path
    lines: list[HistoryLine] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    """sha256 of each line."""
    problems: list[str] = field(default_factory=list)
    torn: bool = False
    """The last line was not written to its end, and counts as not written."""
    follows: list[str] = field(default_factory=list)
    """Histories of the same model that are broken, and what is wrong with each."""

    @property
    def head(self) -> Head | None:
        """How far it goes."""
        return Head(len(self.digests), self.digests[-1]) if self.digests else None

    def all_problems(self, tags: Mapping[str, str]) -> list[str]:
        """What is wrong with it, in itself and beside the head that the registry remembers.

        Args:
            tags: of the registered model.
        """
        return self.problems + self._against(tags.get(HEAD_TAG + self.chain))

    def _against(self, tag: str | None) -> list[str]:
        known = Head.read(tag)
        if known is None:
            concluded = any(line.event not in ("found", "intended") for line in self.lines)
            return ["the registry holds no head of it"] if concluded else []
        if known.number > len(self.digests):
            cut = known.number - len(self.digests)
            return [f"its last {cut} of {known.number} lines are missing"]
        if known.number and self.digests[known.number - 1] != known.digest:
            return [f"line {known.number} is not the one that the registry remembers"]
        return []

    def append(self, event: Event, **facts: Any) -> HistoryLine:
        """Write one more line, and have it on the disk before this returns.

        Raises:
            OutputError: it cannot be written.
        """
        line = HistoryLine(
            number=len(self.digests) + 1,
            before=self.digests[-1] if self.digests else _FIRST,
            at=timestamp(),
            event=event,
            **facts,
        )
        text = line.model_dump_json(exclude_none=True).encode()
        try:
            if self.torn:
                _remove_torn(self.path)
                self.torn = False
            with os.fdopen(open_private(self.path), "ab") as file:
                file.write(text + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(
                f"the history of {line.model} cannot be written: {error.strerror}",
                where=str(self.path),
                mend="see that you may write there and that there is room, then run it again",
            ) from error
        self.lines.append(line)
        self.digests.append(hashlib.sha256(text).hexdigest())
        return line

    def open_intention(self) -> HistoryLine | None:
        """A move that was begun and not ended: whoever made it was killed."""
        ended = {line.completes for line in self.lines if line.completes}
        begun = [line for line in self.lines if line.event == "intended"]
        return begun[-1] if begun and begun[-1].number not in ended else None

    def holder(self) -> str | None:
        """The version that has the alias according to this history."""
        told = [line for line in self.lines if line.event not in ("intended", "pinned", "signed")]
        return told[-1].version if told else None

    def holders(self) -> list[str]:
        """The versions that had the alias and were not taken back, the present one last."""
        stack: list[str] = []
        for line in self.lines:
            if line.version is None or line.event not in ("found", "moved"):
                continue
            if line.how == "rollback" and line.version in stack:
                del stack[stack.index(line.version) + 1 :]
            elif not stack or stack[-1] != line.version:
                stack.append(line.version)
        return stack


def find_histories(home: Home, registry: str, name: str, tags: Mapping[str, str]) -> list[History]:
    """The histories of a model in this home, the longest first: one, unless it was broken once.

    Args:
        registry: the address of the registry, as `memory.canonical` writes it.
        tags: of the registered model. A chain that they name is the model's own, whatever address
            the registry had then, and whatever the model was called.
    """
    found = [
        read_history(path, chain)
        for path, chain in _files(home)
        if HEAD_TAG + chain in tags or _slug(name) == _slug_of(path)
    ]
    own = [each for each in found if HEAD_TAG + each.chain in tags or _is_of(each, registry, name)]
    return sorted(own, key=lambda each: -len(each.digests))


def models_with_history(home: Home, registry: str) -> dict[str, Path]:
    """The models of a registry of which this home has a history, each with its file."""
    found = {}
    for path, chain in _files(home):
        for line in read_history(path, chain).lines[-1:]:
            if line.registry == registry:
                found[line.model] = path
    return found


def history_to_write(home: Home, registry: str, name: str, tags: Mapping[str, str]) -> History:
    """The history that the next line goes to: the sound one, else a new chain that says why."""
    known = find_histories(home, registry, name, tags)
    for history in known:
        if not history.all_problems(tags):
            return history
    chain = secrets.token_hex(8)
    fresh = History(chain, home.history / f"{_slug(name)}-{chain}.jsonl")
    fresh.follows = [f"{each.chain}: {each.all_problems(tags)[0]}" for each in known]
    return fresh


def chains_elsewhere(histories: Sequence[History], tags: Mapping[str, str]) -> list[str]:
    """Chains that the registry knows, and this home does not have: other homes', or lost."""
    here = {HEAD_TAG + each.chain for each in histories}
    named = sorted(tag for tag in tags if tag.startswith(HEAD_TAG) and tag not in here)
    return [tag.removeprefix(HEAD_TAG) for tag in named]


def read_history(path: Path, chain: str) -> History:
    """The lines of a history. Nothing is raised: what is wrong is among its problems."""
    history = History(chain, path)
    try:
        content = read_own(path, _LONGEST_FILE)
    except FileNotFoundError:
        return history
    except NotOursError as error:
        history.problems.append(f"the file is not believed: {error}")
        return history
    *whole, rest = content.split(b"\n")
    history.torn = bool(rest)
    before = _FIRST
    for index, text in enumerate(whole, 1):
        digest = hashlib.sha256(text).hexdigest()
        try:
            line = HistoryLine.model_validate(parse_json(text, unique_keys=True))
        except (ValueError, ValidationError):
            history.problems.append(f"line {index} cannot be read: {printable(text[:80])}")
            history.digests.append(digest)
            before = digest
            continue
        if line.number != index:
            history.problems.append(f"line {index} says that it is number {line.number}")
        if line.before != before:
            history.problems.append(f"line {index} does not follow the line before it")
        history.lines.append(line)
        history.digests.append(digest)
        before = digest
    return history


def _files(home: Home) -> list[tuple[Path, str]]:
    if not home.history.is_dir():
        return []
    found = [(path, _NAME.fullmatch(path.name)) for path in sorted(home.history.iterdir())]
    return [(path, match["chain"]) for path, match in found if match]


def _is_of(history: History, registry: str, name: str) -> bool:
    return bool(history.lines) and (history.lines[0].registry, history.lines[0].model) == (
        registry,
        name,
    )


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "-", name)[:80]


def _slug_of(path: Path) -> str:
    match = _NAME.fullmatch(path.name)
    return match["slug"] if match else ""


def _remove_torn(path: Path) -> None:
    """Take away what a killed writer left of a line that nobody was told of."""
    with path.open("r+b") as file:
        end = file.read().rfind(b"\n") + 1
        file.truncate(end)
        os.fsync(file.fileno())
