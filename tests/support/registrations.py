"""What a pipeline hands to the register step, built by hand around real checkpoint directories."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from merge_core.checkpoints.sources import describe_source
from merge_core.files.digests import DigestMemo, digest_of
from merge_core.records import CheckpointManifest, MergeInput, SourceCheckpoint
from tasks.records import Decision, EvaluationReport, TaskComparison, TaskScore
from tasks.registry.client import open_registry

RECIPE = """\
merge_method: task_arithmetic
base_model: base
models:
  - model: code-expert
    parameters: {weight: 0.5}
  - model: prose-expert
    parameters: {weight: 0.5}
"""


def source(directory: Path) -> SourceCheckpoint:
    """A checkpoint directory as the resolve step describes it."""
    return describe_source(str(directory), directory, DigestMemo(None))


def merge_of(
    base: SourceCheckpoint,
    models: Sequence[SourceCheckpoint],
    result: SourceCheckpoint,
    method: str = "task_arithmetic",
) -> CheckpointManifest:
    """The manifest of a merge of `models` onto `base` that gave `result`."""
    inputs = [MergeInput(reference=base.reference, digest=base.digest, role="base")]
    inputs += [MergeInput(reference=m.reference, digest=m.digest, role="model") for m in models]
    return CheckpointManifest(
        path=result.path,
        digest=result.digest,
        object_id=digest_of(["object", result.digest]),
        files=result.files,
        method=method,
        recipe_digest=digest_of(["recipe", method]),
        plan_digest=digest_of(["plan", method, result.digest]),
        inputs=tuple(inputs),
        parameters=76_000,
        dtype="bfloat16",
        engine="1",
    )


def report(checkpoint: SourceCheckpoint, bits: float, accuracy: float) -> EvaluationReport:
    """An evaluation with one loss and one accuracy, on three documents."""
    ids = ("doc-a", "doc-b", "doc-c")
    scores = (("zoo_code_bpb", "bits_per_byte", False, bits), ("zoo_next", "acc", True, accuracy))
    return EvaluationReport(
        checkpoint_digest=checkpoint.digest,
        reference=checkpoint.reference,
        suite="zoo",
        suite_digest=digest_of("suite"),
        lm_eval_version="0.4.13",
        transformers_version="5.23.0",
        device="cpu",
        scores=tuple(
            TaskScore(
                task=task,
                metric=metric,
                higher_is_better=higher,
                score=value,
                doc_ids=ids,
                values=(value,) * 3,
                weights=(1.0,) * 3,
            )
            for task, metric, higher, value in scores
        ),
    )


def decision(base: SourceCheckpoint, candidate_digest: str, *, promote: bool) -> Decision:
    """A decision with its comparison on one task."""
    improvement = 0.1 if promote else -0.4
    return Decision(
        verdict="promoted" if promote else "fell_back",
        promote=promote,
        reasons=(f"zoo_code_bpb {'gained' if promote else 'lost'} {abs(improvement)}",),
        comparisons=(
            TaskComparison(
                task="zoo_code_bpb",
                metric="bits_per_byte",
                higher_is_better=False,
                baseline=2.5,
                candidate=2.5 - improvement,
                improvement=improvement,
                low=improvement - 0.01,
                high=improvement + 0.01,
                max_regression=0.0,
                outcome="held" if promote else "regressed",
            ),
        ),
        gain=improvement / 2.5,
        gain_low=improvement / 2.5 - 0.01,
        gain_high=improvement / 2.5 + 0.01,
        min_gain=0.0,
        confidence=0.95,
        documents=3,
        candidate_digest=candidate_digest,
        baseline_digest=base.digest,
    )


def registration(
    tracking_uri: str,
    base: Path,
    models: Sequence[Path],
    merged: Path,
    *,
    promote: bool = True,
    method: str = "task_arithmetic",
    name: str = "zoo",
    experiment: str = "merges",
) -> dict[str, Any]:
    """Arguments of `register_merge` for a merge of real directories."""
    base_source, result = source(base), source(merged)
    sources = [source(model) for model in models]
    manifest = merge_of(base_source, sources, result, method)
    scores = [report(base_source, 2.5, 0.4), report(result, 2.4, 0.5)]
    scores += [report(model, 2.3 + index, 0.6) for index, model in enumerate(sources)]
    return {
        "tracking_uri": tracking_uri,
        "experiment": experiment,
        "model_name": name,
        "recipe_yaml": RECIPE,
        "recipe_digest": manifest.recipe_digest,
        "manifest": manifest,
        "base": base_source,
        "models": sources,
        "reports": scores,
        "decision": decision(base_source, result.digest, promote=promote),
        "pipeline_name": "good-merge",
        "prefect_run": {"flow_run_id": "run-1", "flow_run_name": "wise-owl"},
    }


def zoo_merge(zoo: Any, merged: Path, registry: str, **changes: Any) -> dict[str, Any]:
    """Arguments that register the merge of both experts."""
    return registration(registry, zoo.base, [zoo.code_expert, zoo.prose_expert], merged, **changes)


@contextlib.contextmanager
def unsynced_sqlite() -> Iterator[None]:
    """Let SQLite leave writes to the page cache: what a killed process leaves is still the same."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def hurry(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    event.listen(Engine, "connect", hurry)
    yield
    event.remove(Engine, "connect", hurry)


def empty_registry(directory: Path, template: Path) -> str:
    """The address of a new MLflow database; MLflow's 2 s of migrations are done once, in a copy."""
    if not template.exists():
        with open_registry(f"sqlite:///{template}", writing=True):
            pass
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(template, directory / "mlflow.db")
    return f"sqlite:///{directory / 'mlflow.db'}"


def copied_registry(registry: str, directory: Path) -> str:
    """The address of a copy of a local MLflow database; artifacts stay where they are."""
    shutil.copyfile(registry.removeprefix("sqlite:///"), directory / "mlflow.db")
    return f"sqlite:///{directory / 'mlflow.db'}"


def variant(checkpoint: Path, directory: Path, mark: str) -> Path:
    """A copy of a checkpoint that has the same weights and another digest."""
    shutil.copytree(checkpoint, directory)
    config = directory / "generation_config.json"
    values = json.loads(config.read_text()) | {"transformers_version": mark}
    config.chmod(0o644)
    config.write_text(json.dumps(values))
    return directory
