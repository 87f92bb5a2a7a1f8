"""MLflow's description of the model: `checkpoint.json`, `MLmodel`, loader, tokenizer."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from merge_core.files.digests import model_digest
from merge_core.store.objects import stored_place
from tasks.audit.evidence import Evidence
from tasks.audit.report import Answers
from tasks.registry.client import TAG
from tasks.registry.last_check import differences, strangers
from tasks.registry.models import write_description


def check(evidence: Evidence, answers: Answers) -> None:
    """What is held is what mergeflow writes for this checkpoint, and nothing else is there."""
    model, held, checkpoint = evidence.model, evidence.held, evidence.checkpoint
    if model is None:
        answers.unknown("there is no description to look at")
        return
    if held is None:
        answers.fails("MLflow's description of the model cannot be fetched")
        return
    if checkpoint is None:
        answers.fails("checkpoint.json is missing, or cannot be read")
        return
    answers.same("checkpoint.json's digest", checkpoint.digest, evidence.digest, "the version")
    answers.same(
        "checkpoint.json's place", checkpoint.path, model.tags.get(TAG + "path"), "the model"
    )
    if model_digest(checkpoint.files) != checkpoint.digest:
        if stored_place(checkpoint.directory) is None or evidence.is_merge:
            answers.fails("the files that checkpoint.json lists do not give its digest")
        else:
            answers.unknown("an adapter that was written out: its files do not give the digest")
    loader = model.tags.get(TAG + "loader", "")
    code = held / "code" / f"{loader}.py"
    if not code.is_file() or not loader.endswith(sha256(code.read_bytes()).hexdigest()[:8]):
        answers.fails(f"the loader that was recorded is not there as it was: {loader or 'none'}")
    if not checkpoint.directory.is_dir():
        answers.unknown(f"MLmodel and tokenizer: the checkpoint is not here: {checkpoint.path}")
        return
    expected = evidence.scratch / "expected"
    expected.mkdir()
    try:
        write_description(expected, model, checkpoint)
    except OSError as error:
        answers.fails(f"the checkpoint has not the files to describe it: {error.strerror}")
        return
    _compare(answers, held, expected, loader)


def _compare(answers: Answers, held: Path, expected: Path, loader: str) -> None:
    other = differences(held, expected)
    if other and not (expected / "code" / f"{loader}.py").is_file():
        answers.unknown(
            f"the description was written by another version of mergeflow (its loader is {loader});"
            " a run that registers this checkpoint writes it anew"
        )
        other = {name for name in other if name == "checkpoint.json"}
    for name in sorted(other):
        answers.fails(f"{name} in MLflow is not what mergeflow wrote there")
    for name in sorted(strangers(held, expected)):
        answers.fails(f"{name} in MLflow was put there by somebody else, and would be loaded")
    if not answers.failed:
        answers.holds("checkpoint.json, MLmodel, loader and tokenizer are what mergeflow wrote")
