"""What a statement says of a merge, collected from the record of its run."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from tasks.audit.evidence import Evidence
from tasks.registry.client import TAG
from tasks.registry.file_list import FILE_LIST
from tasks.registry.lock import LOCK
from tasks.signing.statement import Evaluated, Facts

_FILES = (
    "recipe.yaml",
    "manifest.json",
    "decision.json",
    "rule.json",
    "compared.json",
    "environment.json",
    LOCK,
    FILE_LIST,
)
"""Files of a run by whose sha256 a statement holds them."""


def facts_of(evidence: Evidence) -> Facts | None:
    """The facts; None where the record is not whole enough to say how the merge was made."""
    run, manifest, decision = evidence.run, evidence.manifest, evidence.decision
    recipe = evidence.file("recipe.yaml")
    evaluated = tuple(
        Evaluated(each.role, each.report, each.sha256)
        for each in evidence.evaluations
        if each.report is not None and each.sha256 is not None
    )
    if run is None or manifest is None or decision is None or recipe is None:
        return None
    if not any(each.role == "merged" for each in evaluated):
        return None
    lock = evidence.lock
    contents = {name: evidence.file(name) for name in _FILES}
    return Facts(
        address=evidence.address,
        run_id=run.info.run_id,
        manifest=manifest,
        recipe=recipe.decode("utf-8", "replace"),
        decision=decision,
        evaluations=evaluated,
        files={
            name: sha256(content).hexdigest()
            for name, content in contents.items()
            if content is not None
        },
        rule=_object(contents["rule.json"]),
        lock=lock,
        environment=_object(contents["environment.json"]) or {},
        pipeline=run.data.tags.get(TAG + "pipeline", ""),
        started=lock.started if lock else _moment(run.info.start_time),
        ended=lock.ended if lock else _moment(run.info.end_time),
    )


def _object(content: bytes | None) -> dict[str, Any] | None:
    try:
        value = json.loads(content) if content else None
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _moment(milliseconds: int | None) -> str:
    return datetime.fromtimestamp((milliseconds or 0) / 1000, UTC).isoformat(timespec="seconds")
