"""The key of the record: computed from the evidence and the decision when they were written."""

from __future__ import annotations

from typing import Any

from merge_core.files.bounded_json import parse_json
from merge_core.files.digests import digest_of
from tasks.audit.evidence import Evidence
from tasks.audit.report import Answers
from tasks.registry.client import TAG


def check(evidence: Evidence, answers: Answers) -> None:
    """The key is computed again from the files: an edit of one of them gives another."""
    run = evidence.run
    if run is None:
        answers.unknown("there is no run that has a key")
        return
    try:
        key = key_of_record(evidence)
    except ValueError:
        answers.fails("decision.json cannot be read, or says something twice")
        return
    if key is None:
        answers.unknown("the key cannot be computed: a file of the record is missing")
    elif key == run.data.tags.get(TAG + "registration"):
        answers.holds("evaluations and decision are, word for word, what the record was made of")
    else:
        answers.fails(
            "evaluations, decision or names were edited: the key of the record is another one"
        )


def key_of_record(evidence: Evidence) -> str | None:
    """What the record's key would be, were it written of the files as they are; None where one is
    missing.

    Raises:
        ValueError: decision.json cannot be read.
    """
    run, manifest, content = evidence.run, evidence.manifest, evidence.file("decision.json")
    raw = [each.raw for each in evidence.evaluations]
    if run is None or content is None or manifest is None or not raw or None in raw:
        return None
    decision = parse_json(content, unique_keys=True, finite=True)
    return digest_of(
        {
            "model": run.data.tags.get(TAG + "model"),
            "plan": manifest.plan_digest,
            "merged": manifest.digest,
            "base": run.data.tags.get(TAG + "base_digest"),
            "reports": [_without_none(each) for each in raw],
            "decision": _without_none(decision),
            "pipeline": run.data.tags.get(TAG + "pipeline"),
        }
    )


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value
