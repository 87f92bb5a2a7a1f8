"""Kinds of tampering with the lines of a history whose chain is made whole again, and with records
that only a line still knows."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from typing import Any

from tasks.registry.alias_state import NOTE_TAG, PIN_TAG
from tasks.registry.file_list import FILES_TAG
from tests.support.tampering import Tamperer, appended
from tests.support.tampering_history import Lines, history_file, rewritten
from tests.support.tampering_pages import relisted


def with_its_list(at: Tamperer, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    """A file of the run, the list of files, and what the run says of the list."""
    at.edit(at.artifact(name), change)
    relisted(at, name)
    noted(at)


def noted(at: Tamperer) -> None:
    listed = at.artifact("files.json").read_bytes()
    at.api.set_tag(at.run_id, FILES_TAG, hashlib.sha256(listed).hexdigest())


def page_with_its_list(at: Tamperer) -> None:
    appended(at.artifact("decision.md"), "Approved by the board.")
    relisted(at, "decision.md")
    noted(at)


def no_longer_listed(at: Tamperer) -> None:
    """Run and files look like those of a mergeflow of before."""
    at.artifact("files.json").unlink()
    at.api.delete_tag(at.run_id, FILES_TAG)


def no_rule_listed(at: Tamperer) -> None:
    at.artifact("rule.json").unlink()
    at.edit(at.artifact("files.json"), lambda value: value.pop("rule.json"))
    noted(at)


def lock_with_its_list(at: Tamperer, **said: object) -> None:
    with_its_list(at, "lock.json", lambda value: value.update(said))
    at.api.set_tag(
        at.run_id,
        "mergeflow.lock",
        hashlib.sha256(at.artifact("lock.json").read_bytes()).hexdigest(),
    )


def exchanged(lines: Lines) -> None:
    lines[1], lines[2] = lines[2], lines[1]


def promised(lines: Lines) -> None:
    """A move that was begun, so that the alias may be anywhere."""
    lines.append(lines[1] | {"event": "intended", "previous": "7"})


def of_other_champions(lines: Lines) -> None:
    for line in lines:
        if line["event"] == "moved":
            line["previous"] = "7"


def without_verdict(lines: Lines) -> None:
    for line in lines:
        line.pop("verdict", None)


def fifo(at: Tamperer) -> None:
    file = history_file(at)
    file.unlink()
    os.mkfifo(file)


def note_of(at: Tamperer, **said: object) -> None:
    note = json.loads(at.api.get_registered_model("model").tags[NOTE_TAG]) | said
    at.api.set_registered_model_tag("model", NOTE_TAG, json.dumps(note))


KINDS: dict[str, tuple[Callable[[Tamperer], object], str, str]] = {
    "lines of the history in another order": (
        lambda at: rewritten(at, exchanged),
        "alias",
        "line 2 cannot stand there: it ends a move that no line before it begins",
    ),
    "a line of the history twice": (
        lambda at: rewritten(at, lambda lines: lines.append(dict(lines[-1]))),
        "alias",
        "line 5 cannot stand there: it says what line 4 says",
    ),
    "the first line of the history": (
        lambda at: rewritten(at, lambda lines: lines.__delitem__(0)),
        "alias",
        "a history begins with where the alias was found",
    ),
    "a move that was never begun": (
        lambda at: rewritten(at, lambda lines: lines.__delitem__(1)),
        "alias",
        "no line before it begins",
    ),
    "a move that is said to have begun": (
        lambda at: rewritten(at, promised),
        "alias",
        "it says that version 7 had the alias, and version 2 had it",
    ),
    "who had the alias before, in the history": (
        lambda at: rewritten(at, of_other_champions),
        "alias",
        "it ends the move of line 2, from another version",
    ),
    "who has the alias still, in the history": (
        lambda at: rewritten(at, lambda lines: lines[-1].update(version="1")),
        "alias",
        "it says that version 1 has the alias, and version 2 has it",
    ),
    "verdicts taken out of the history": (
        lambda at: rewritten(at, without_verdict),
        "alias",
        "speaks of its run, and says no verdict",
    ),
    "a line of no time": (
        lambda at: rewritten(at, lambda lines: lines[-1].update(at="now")),
        "alias",
        "it says no time: now",
    ),
    "a history that is a FIFO": (fifo, "alias", "it is no plain file"),
    "a note that names a history of nobody's": (
        lambda at: note_of(at, chain="f" * 16),
        "alias",
        "which nobody has",
    ),
    "a pin that cannot be read": (
        lambda at: at.api.set_registered_model_tag("model", PIN_TAG, "{}"),
        "alias",
        "the registry's pin cannot be read",
    ),
    "a page, the list of files, and the run's word of it": (
        page_with_its_list,
        "alias",
        "the list of the run's files was written anew",
    ),
    "the versions of packages, with the list of files": (
        lambda at: with_its_list(
            at, "environment.json", lambda value: value["packages"].update(torch="9")
        ),
        "alias",
        "the list of the run's files was written anew",
    ),
    "how often the rule draws, with the list of files": (
        lambda at: with_its_list(at, "rule.json", lambda value: value.update(resamples=201)),
        "alias",
        "the list of the run's files was written anew",
    ),
    "the device in the lock, with the list of files": (
        lambda at: lock_with_its_list(at, device="cuda"),
        "alias",
        "the list of the run's files was written anew",
    ),
    "a run that is made one of before": (no_longer_listed, "alias", "or taken off"),
    "a rule taken out, with the list of files": (no_rule_listed, "alias", "was written anew"),
    "a rule with a key of nobody's": (
        lambda at: with_its_list(at, "rule.json", lambda value: value.update(approved=True)),
        "decision",
        "rule.json says what mergeflow never writes there",
    ),
    "what it was compared with, with a key of nobody's": (
        lambda at: with_its_list(at, "compared.json", lambda value: value.update(origin="best")),
        "decision",
        "compared.json says what mergeflow never writes there",
    ),
    "times of the lock that are none": (
        lambda at: lock_with_its_list(at, ended="soon"),
        "lock",
        "says no time at which the run began",
    ),
    "a lock that ends before it begins": (
        lambda at: lock_with_its_list(at, ended="2025-01-01T00:00:00"),
        "lock",
        "had decided before it began",
    ),
}
"""Each with what is done, the check that has to name it, and words of its answer."""
