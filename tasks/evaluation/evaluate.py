"""Evaluate a checkpoint: lm-eval on one suite, in a process of its own that can be killed.

The result keeps a value for each document, because the decision compares checkpoints pairwise.
"""

from __future__ import annotations

import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from merge_core.checkpoints.checkpoint import open_checkpoint
from merge_core.errors import CheckpointError, MergeflowError, RecipeError, StepError
from merge_core.files.digests import DigestMemo, digest_of
from merge_core.files.private import PRIVATE_UMASK, child_umask, make_private_directory
from merge_core.progress import Progress, ProgressEvent
from merge_core.records import SourceCheckpoint
from merge_core.store.vouching import confirm
from merge_core.verification.alone_findings import how_to_unwrap
from tasks.evaluation.faults import cannot_begin, no_result
from tasks.evaluation.suite import Suite, is_self_contained, suite_digest, task_directories
from tasks.hub_answers import hub_cache
from tasks.processes.child import run_child
from tasks.processes.model import OFFLINE, model_environment, resolved_device_kind
from tasks.processes.secret_variables import HUB_TOKENS
from tasks.records import EvaluationReport, TaskScore


def evaluate_checkpoint(
    checkpoint: SourceCheckpoint,
    suite: Suite,
    *,
    device: str = "auto",
    scratch: Path,
    logs: Path | None = None,
    threads: int | None = None,
    memo: DigestMemo | None = None,
    progress: Progress | None = None,
) -> EvaluationReport:
    """Score a checkpoint on every task of a suite.

    What is scored is what the checkpoint's digest stands for: every byte of it is read before, and
    no file of it may have changed, come or gone afterwards. `memo` is told what was read.

    `device` is auto, cpu, cuda or cuda:N; of the CPU, `threads` are used, by default all. Working
    files go below `scratch` and are removed afterwards; the log of an evaluation that failed is
    kept in `logs`, by default `scratch` too. A suite whose data is on this disk is evaluated with
    the network switched off.

    Raises RecipeError when the suite names something that does not exist, StepError when lm-eval
    fails, dies or takes longer than the suite allows; no process is left behind in any case.
    CheckpointError for a base with an adapter, which is first to be written out, and for a
    checkpoint that is not what its record says.
    """
    if checkpoint.adapter:
        raise CheckpointError(
            "a base with an adapter is evaluated once it is written out as a checkpoint",
            where=checkpoint.reference,
            mend="merge it alone by passthrough, and evaluate the result",
        )
    if open_checkpoint(checkpoint.directory).wrapper:
        raise CheckpointError(
            "a training wrapper's words are in the names of its tensors: transformers would load"
            " random weights",
            where=checkpoint.reference,
            mend=f"to evaluate it, {how_to_unwrap(checkpoint.reference)}",
        )
    digest = suite_digest(suite)
    confirmed = confirm(checkpoint, memo or DigestMemo(None), progress)
    where = f"evaluate {checkpoint.reference} with suite '{suite.name}'"
    try:
        make_private_directory(scratch)
        working = Path(tempfile.mkdtemp(prefix=f"{suite.name}-{checkpoint.short}-", dir=scratch))
    except OSError as error:
        raise cannot_begin(where, scratch, error) from None
    log = working / "lm-eval.log"
    messages: dict[str, Any] = {}

    def listen(message: dict[str, Any]) -> None:
        messages.update(message)
        if progress and "done" in message:
            stage = f"evaluate {checkpoint.reference}"
            progress(ProgressEvent(stage, message["done"], message["total"], "documents"))

    try:
        end = run_child(
            "tasks.evaluation.process",
            _job(checkpoint, suite, device),
            log=log,
            timeout=suite.timeout_minutes * 60,
            environment=_environment(suite, working, threads),
            on_message=listen,
            umask=PRIVATE_UMASK if is_self_contained(suite) else child_umask(hub_cache()),
        )
    except OSError as error:
        shutil.rmtree(working, ignore_errors=True)
        raise cannot_begin(where, scratch, error) from None
    finally:
        shutil.rmtree(working / "cache", ignore_errors=True)
    problem = messages.get("problem")
    if "result" not in messages and (problem is None or problem["bug"]):
        kept = _kept(log, logs or scratch)
        shutil.rmtree(working, ignore_errors=True)
        raise no_result(where, end, messages, kept, minutes=suite.timeout_minutes)
    shutil.rmtree(working, ignore_errors=True)
    if problem:
        raise _mistake(suite, problem)
    confirmed.look_again()
    result = messages["result"]
    return EvaluationReport(
        checkpoint_digest=checkpoint.digest,
        reference=checkpoint.reference,
        suite=suite.name,
        suite_digest=digest,
        lm_eval_version=version("lm-eval"),
        transformers_version=version("transformers"),
        device=result["device"],
        scores=tuple(
            _task_score(score, task.weight)
            for score, task in zip(result["scores"], suite.tasks, strict=True)
        ),
        truncated=result["truncated"],
    )


def failed_evaluation(
    checkpoint: SourceCheckpoint, suite: Suite, device: str, failure: StepError
) -> EvaluationReport:
    """The report on a candidate that could not be evaluated: no scores, and the reason."""
    return EvaluationReport(
        checkpoint_digest=checkpoint.digest,
        reference=checkpoint.reference,
        suite=suite.name,
        suite_digest=suite_digest(suite),
        lm_eval_version=version("lm-eval"),
        transformers_version=version("transformers"),
        device=resolved_device_kind(device),
        scores=(),
        failure=failure.what,
    )


def evaluation_key(
    checkpoint: SourceCheckpoint,
    suite: Suite,
    device_kind: str = "auto",
    lm_eval_version: str | None = None,
    transformers_version: str | None = None,
) -> str:
    """The cache key of one evaluation: everything that can change a score.

    The kind of device is part of it (`cuda:1` counts as `cuda`): sums differ in their last digits,
    and only evaluations made alike are compared. Versions default to what is installed.
    """
    return digest_of(
        {
            "checkpoint": checkpoint.digest,
            "suite": suite_digest(suite),
            "device": resolved_device_kind(device_kind),
            "lm_eval": lm_eval_version or version("lm-eval"),
            "transformers": transformers_version or version("transformers"),
            "torch": version("torch"),
        }
    )


def _kept(log: Path, directory: Path) -> Path:
    """Put a log where it outlives the working files; where it is then."""
    place = directory / f"evaluate-{log.parent.name}.log"
    make_private_directory(directory)
    return log.replace(place)


def _job(checkpoint: SourceCheckpoint, suite: Suite, device: str) -> dict[str, Any]:
    directories = task_directories(suite)
    own = suite.include_directory
    everywhere = directories is None
    return {
        "checkpoint": str(checkpoint.directory.absolute()),
        "directory": suite.directory,
        "include": [str(path) for path in directories or ([own] if own else [])],
        "defaults": everywhere,
        "tasks": [task.model_dump() for task in suite.tasks],
        "settings": suite.settings.model_dump(),
        "device": device,
    }


def _environment(suite: Suite, working: Path, threads: int | None) -> dict[str, str]:
    if not is_self_contained(suite):
        return model_environment(threads, keep=HUB_TOKENS)
    kept = model_environment(threads)
    # A private cache: prepared data of another suite, or of an older file, can never be read.
    return (
        kept
        | OFFLINE
        | {"HF_HOME": str(working / "cache")}
        | {"HF_DATASETS_CACHE": str(working / "cache" / "datasets")}
    )


def _task_score(score: dict[str, Any], weight: float | None) -> TaskScore:
    ratio = sum(score["values"]) / sum(score["weights"])
    total = 2.0**ratio if score["scale"] == "power_of_two" else ratio
    return TaskScore(**score, score=total, task_weight=weight)


def _mistake(suite: Suite, problem: dict[str, Any]) -> MergeflowError:
    """Something the evaluation process understood: a person has to change a name or a value."""
    if problem["place"] is None:
        where = f"evaluate with suite '{suite.name}'"
        return StepError(problem["what"], where=where, mend=problem["mend"])
    where = f"suite '{suite.name}' in {suite.directory}: {problem['place']}"
    return RecipeError(problem["what"], where=where, mend=problem["mend"])
