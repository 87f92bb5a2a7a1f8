"""The key of the record: computed from the evidence and the decision when they were written."""

from __future__ import annotations

import json
from typing import Any

from merge_core.files.digests import digest_of
from tasks.audit.evidence import Evidence
from tasks.audit.report import Answers
from tasks.registry.client import TAG


def check(evidence: Evidence, answers: Answers) -> None:
    """The key is computed again from the files: an edit of one of them gives another."""
    run, manifest = evidence.run, evidence.manifest
    if run is None:
        answers.unknown("there is no run that has a key")
        return
    content = evidence.file("decision.json")
    raw = [each.raw for each in evidence.evaluations]
    if content is None or manifest is None or not raw or None in raw:
        answers.unknown("the key cannot be computed: a file of the record is missing")
        return
    try:
        decision = json.loads(content)
    except ValueError:
        answers.fails("decision.json is no JSON")
        return
    key = digest_of(
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
    if key == run.data.tags.get(TAG + "registration"):
        answers.holds("evaluations and decision are, word for word, what the record was made of")
    else:
        answers.fails(
            "evaluations, decision or names were edited: the key of the record is another one"
        )


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value
