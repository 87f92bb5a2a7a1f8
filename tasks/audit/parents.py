"""The checkpoints that it was made of, as far as they can be reached from here."""

from __future__ import annotations

from pathlib import Path

from merge_core.errors import CheckpointError, MergeflowError, UnreadableError
from merge_core.files.digests import DigestMemo
from merge_core.store.vouching import departures
from tasks.audit.evidence import Evidence
from tasks.audit.report import Answers
from tasks.lineage.trace import lineage
from tasks.registry.described import described_model
from tasks.registry.models import find_logged_model


def check(evidence: Evidence, answers: Answers) -> None:
    """Every direct input is known to MLflow and, where it is here, still has its bytes."""
    manifest = evidence.manifest
    if manifest is None:
        answers.unknown("nothing says what it was made of")
        return
    for digest, reference in {item.digest: item.reference for item in manifest.inputs}.items():
        _input(evidence, digest, reference, answers)
    try:
        ancestry = lineage(evidence.address, evidence.registry.tracking_uri)
    except MergeflowError as error:
        answers.fails(f"its ancestry cannot be traced: {error.what}")
        return
    for node in ancestry.nodes[1:]:
        if node.merge is not None and node.merge.deleted:
            answers.fails(f"the run that made its ancestor {node.digest[:12]} was deleted")
    if not answers.failed:
        answers.holds(
            f"{len(ancestry.nodes) - 1} ancestors are known, and no run of theirs is gone"
        )


def _input(evidence: Evidence, digest: str, reference: str, answers: Answers) -> None:
    who = f"{reference} ({digest[:12]})"
    model = find_logged_model(evidence.registry, digest)
    if model is None:
        answers.fails(f"MLflow has no model of its input {who} any more")
        return
    checkpoint = described_model(evidence.registry, model, digest)
    if checkpoint is None:
        answers.fails(f"MLflow's description of its input {who} is not that of its digest")
        return
    if not Path(checkpoint.path).is_dir():
        answers.unknown(f"its input {who} is not on this machine: {checkpoint.path}")
        return
    try:
        found = departures(checkpoint, DigestMemo(None), afresh=True, progress=evidence.progress)
    except UnreadableError as error:
        answers.unknown(f"its input {who}: {error.what}")
    except CheckpointError as error:
        answers.fails(f"its input {who}: {error.what}")
    else:
        for problem in found:
            answers.fails(f"its input {who} is not what it was: {problem}")
