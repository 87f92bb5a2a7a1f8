"""The MLflow run of a merge: settings, inputs, scores, decision. `evaluations.py` has its children.

A run is found again by the key of its content, and written to completion however often a
writer was interrupted: every write here may be repeated.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel

from merge_core.records import CheckpointManifest
from merge_core.text.markdown import inline
from merge_core.text.plain import plain, plain_log
from tasks.evaluation.document_texts import DIRECTORY as TEXTS
from tasks.records import Approval, Decision
from tasks.registry.client import MAX_TAG_VALUE, TAG, Registry, is_server, strip_credentials
from tasks.registry.datasets import datasets_of
from tasks.registry.environment import code_commit, environment
from tasks.registry.facts import MergeFacts, slug
from tasks.registry.file_list import keep_file_list, sha256_of
from tasks.registry.lock import LOCK
from tasks.registry.run_files import log_files, log_tables, table_text
from tasks.registry.tables import DOCUMENTS, SCORES, documents_table, scores_table

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Run

_log = plain_log("mergeflow")

_MAX_PARAMS, MAX_PARAM_VALUE = 200, 500
_OF_DOCUMENTS = {"doc_ids", "values", "weights", "prompt_hashes", "not_finite_at", "clusters"}
"""Fields of a task's score with an entry for each document; the evaluation's own run keeps them."""


def ensure_merge_run(registry: Registry, experiment_id: str, facts: MergeFacts) -> Run:
    """The run that records this merge: found by its key, else created with its searchable tags."""
    same = f"tags.`{TAG}registration` = '{facts.key}'"
    # The same name in MLflow as in Prefect.
    name = str((facts.prefect_run or {}).get("flow_run_name") or "")
    name = plain(name) or f"{facts.manifest.method}-{facts.manifest.digest[:8]}"
    run = ensure_run(registry, experiment_id, same, name, tags_of_run(facts))
    flow_run = (facts.prefect_run or {}).get("flow_run_id")
    if flow_run and run.data.tags.get(TAG + "prefect_last_flow_run_id") != str(flow_run):
        registry.client.set_tag(run.info.run_id, TAG + "prefect_last_flow_run_id", str(flow_run))
    return run


def is_recorded(run: Run) -> bool:
    """Whether a run's record was finished, so that nothing is left to write."""
    return str(run.data.tags.get(TAG + "recorded")) == "true"


def say_what_is_not_added(registry: Registry, run: Run, facts: MergeFacts) -> None:
    """Warn of documents' text that a finished record does not get: it is never written again."""
    wanted = {name for name in facts.artifacts if name.startswith(f"{TEXTS}/")}
    if not wanted:
        return
    there = {item.path for item in registry.client.list_artifacts(run.info.run_id, TEXTS)}
    if missing := sorted(wanted - there):
        _log.warning(
            "warning: this merge is registered already, with a record that is not written again:"
            " the text of its documents (%s) is not kept",
            ", ".join(missing),
        )


def record_merge(
    registry: Registry, run: Run, facts: MergeFacts, model_ids: Mapping[str, str]
) -> None:
    """Write parameters, metrics, artifacts, inputs and output of a merge run.

    Args:
        model_ids: LoggedModel ids by digest, of every input and of the merged checkpoint.
    """
    from mlflow.entities import LoggedModelOutput, Param, RunTag

    client, run_id = registry.client, run.info.run_id
    params = {k: v for k, v in params_of_run(facts).items() if k not in run.data.params}
    tags = input_tags(facts.manifest)
    if LOCK in facts.artifacts:
        tags[TAG + "lock"] = sha256_of(facts.artifacts[LOCK])
    client.log_batch(
        run_id,
        metrics=as_metrics(metrics_of_run(facts), run.info.start_time),
        params=[Param(key, value) for key, value in params.items()],
        tags=[RunTag(key, value[:MAX_TAG_VALUE]) for key, value in tags.items()],
    )
    inputs = [model_ids[item.digest] for item in facts.manifest.inputs]
    log_inputs(registry, run, inputs, datasets_of(facts.reports))
    output = model_ids[facts.manifest.digest]
    made = {item.model_id for item in run.outputs.model_outputs} if run.outputs else set()
    if output not in made:
        client.log_outputs(run_id, [LoggedModelOutput(output, 0)])
    files = _merge_files(facts)
    log_files(registry, run_id, files)
    reports = {facts.role(each.checkpoint_digest): each for each in facts.reports}
    tables = {
        SCORES: scores_table(reports, facts.decision),
        DOCUMENTS: documents_table(reports),
    }
    log_tables(registry, run, tables)
    keep_file_list(
        registry, run_id, files | {name: table_text(each) for name, each in tables.items()}
    )


def approval_tags(approval: Approval) -> dict[str, str]:
    """Who decided what when, to search runs and versions by."""
    said = "approved" if approval.approved else "declined" if approval.by else "not answered"
    return {
        "approval": said,
        "approval_by": plain(approval.by or "nobody"),
        "approval_name": "as typed, not checked" if approval.by else "none",
        "approval_at": approval.at,
        "approval_comment": plain(approval.comment or "none"),
    }


def finish(registry: Registry, run_id: str) -> None:
    """Mark a run's record as complete. The tag is written last, since later calls trust it."""
    registry.client.set_terminated(run_id, "FINISHED")
    registry.client.set_tag(run_id, TAG + "recorded", "true")


def ensure_run(
    registry: Registry, experiment_id: str, same: str, name: str, tags: Mapping[str, str]
) -> Run:
    """The oldest run that meets the condition `same`, else a new one with these tags."""
    run = _find(registry, experiment_id, same)
    if run is None:
        created = registry.client.create_run(experiment_id, run_name=name, tags=dict(tags))
        run = _find(registry, experiment_id, same) or created
        if run.info.run_id != created.info.run_id:
            registry.client.delete_run(created.info.run_id)  # another writer was faster
    return run


def _find(registry: Registry, experiment_id: str, condition: str) -> Run | None:
    found = registry.client.search_runs(
        [experiment_id], condition, max_results=1, order_by=["attributes.start_time ASC"]
    )
    return registry.client.get_run(found[0].info.run_id) if found else None


def tags_of_run(facts: MergeFacts) -> dict[str, str]:
    """What runs are found by, and the description that MLflow shows."""
    manifest, decision = facts.manifest, facts.decision
    tags = {
        "kind": "merge",
        "registration": facts.key,
        "model": facts.model_name,
        "recipe_digest": facts.recipe_digest,
        "plan_digest": manifest.plan_digest,
        "object_id": manifest.object_id,
        "digest": manifest.digest,
        "base_digest": facts.base.digest,
        "method": manifest.method,
        "verdict": decision.verdict,
        "baseline": plain(", ".join(decision.baselines)),
        "promote": str(decision.promote).lower(),
        "engine": manifest.engine,
        "pipeline": facts.pipeline_name or "",
        "allow_unrelated": "true" if manifest.allow_unrelated else "",
        "candidates": str(decision.candidates or ""),
        "suite": plain(", ".join(sorted({report.suite for report in facts.reports}))),
        "suite_digest": facts.suite_digest,
    }
    if decision.approval is not None:
        tags |= approval_tags(decision.approval)
    for key, value in (facts.prefect_run or {}).items():
        if isinstance(value, str | int):
            tags[f"prefect_{key}"] = strip_credentials(str(value))
    named = {TAG + key: value[:MAX_TAG_VALUE] for key, value in tags.items() if value}
    named["mlflow.note.content"] = (link_to_prefect(facts.prefect_run) + facts.decision_page())[
        :MAX_TAG_VALUE
    ]
    if commit := code_commit():
        named["mlflow.source.git.commit"] = commit
    return named


def link_to_prefect(run: Mapping[str, Any] | None) -> str:
    """The page of a run in Prefect, to click on in MLflow; nothing without such a page.

    Args:
        run: `flow_run_name` and `url`, as `register_merge` takes them.
    """
    told = run or {}
    name, address = told.get("flow_run_name"), strip_credentials(str(told.get("url") or ""))
    if not is_server(address) or re.search(r"[\s()<>]", address):
        return ""
    return f"Run in Prefect: [{inline(name or 'open')}]({address})\n\n"


def input_tags(manifest: CheckpointManifest) -> dict[str, str]:
    """One tag for each ingredient, found by its digest; one used in two roles names both."""
    noted: dict[str, dict[str, Any]] = {}
    for index, item in enumerate(manifest.inputs):
        known = noted.setdefault(item.digest, {"index": index, **item.model_dump()})
        if item.role not in known["role"].split("+"):
            known["role"] += f"+{item.role}"
    return {f"{TAG}input.{digest[:12]}": json.dumps(known) for digest, known in noted.items()}


def params_of_run(facts: MergeFacts) -> dict[str, str]:
    """The recipe and the rule, flattened."""
    decision, manifest = facts.decision, facts.manifest
    params = {
        "engine": manifest.engine,
        "dtype": manifest.dtype,
        "parameters": str(manifest.parameters),
        **_rule(decision),
    }
    params.update(flatten("recipe", yaml.safe_load(facts.recipe_yaml)))
    if len(params) > _MAX_PARAMS:
        left = len(params) - _MAX_PARAMS
        params = dict(list(params.items())[:_MAX_PARAMS])
        params["recipe.more"] = f"{left} more values: see recipe.yaml"
    return {key[:250]: value[:MAX_PARAM_VALUE] for key, value in params.items()}


def _rule(made: Decision) -> dict[str, str]:
    loss, asked = "max_regression", {"min_gain": made.min_gain, "confidence": made.confidence}
    if made.gate:
        loss, asked = "guard_margin", {"exceed": made.gate.exceed, "alpha": made.gate.alpha}
    for each in made.comparisons:
        asked[f"{loss}.{slug(each.task)}.{slug(each.metric)}"] = each.max_regression
    return {f"promote.{name}": repr(value) for name, value in asked.items()}


def flatten(prefix: str, value: Any) -> dict[str, str]:
    """`{"a": {"b": [1, 2]}}` as `{"prefix.a.b": "[1, 2]"}`; lists of mappings are numbered."""
    if isinstance(value, Mapping):
        parts: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        parts = enumerate(value)
    else:
        return {prefix: value if isinstance(value, str) else json.dumps(value, default=str)}
    flat: dict[str, str] = {}
    for key, item in parts:
        flat.update(flatten(f"{prefix}.{slug(str(key))}", item))
    return flat


def metrics_of_run(facts: MergeFacts) -> dict[str, float]:
    """The decision's numbers, and everyone's scores."""
    decision = facts.decision
    metrics = {
        "gain": decision.gain,
        "gain_low": decision.gain_low,
        "gain_high": decision.gain_high,
        "documents": float(decision.documents),
        "promoted": float(decision.promote),
    }
    for comparison in decision.comparisons:
        name = f"{slug(comparison.task)}/{slug(comparison.metric)}"
        metrics[f"improvement/{name}"] = comparison.improvement
        metrics[f"improvement_low/{name}"] = comparison.low
        metrics[f"improvement_high/{name}"] = comparison.high
    for report in facts.reports:
        role = facts.role(report.checkpoint_digest)
        for score in report.scores:
            metrics[f"{role}/{slug(score.task)}/{slug(score.metric)}"] = score.score
    return metrics


def _merge_files(facts: MergeFacts) -> dict[str, str | bytes]:
    files: dict[str, str | bytes] = {
        "recipe.yaml": facts.recipe_yaml,
        "manifest.json": _json(facts.manifest),
        "decision.json": _json(facts.decision),
        "decision.md": facts.decision_page(),
        "environment.json": json.dumps(environment(), indent=1),
    }
    if facts.compatibility is not None:
        files["reports/compatibility.json"] = _json(facts.compatibility)
    if facts.profile is not None:
        files["reports/task_vectors.json"] = _json(facts.profile)
    for report in facts.reports:
        role = facts.role(report.checkpoint_digest).replace("/", "-")
        files[f"reports/evaluation-{role}.json"] = _json(
            report, exclude={"scores": {"__all__": _OF_DOCUMENTS}}
        )
    return files | dict(facts.artifacts)


def log_inputs(
    registry: Registry, run: Run, model_ids: Iterable[str], datasets: Sequence[DatasetInput] = ()
) -> None:
    """Let a run show what it read: checkpoints, and the documents of a suite's tasks."""
    from mlflow.entities import LoggedModelInput

    known = {item.model_id for item in run.inputs.model_inputs} if run.inputs else set()
    missing = [LoggedModelInput(model) for model in dict.fromkeys(model_ids) if model not in known]
    seen = run.inputs.dataset_inputs if run.inputs else []
    there = {(item.dataset.name, item.dataset.digest) for item in seen}
    fresh = [each for each in datasets if (each.dataset.name, each.dataset.digest) not in there]
    if missing or fresh:
        registry.client.log_inputs(run.info.run_id, models=missing or None, datasets=fresh or None)


def as_metrics(metrics: Mapping[str, float], when: int) -> list[Any]:
    """MLflow metrics at one fixed time, so that writing them again changes nothing."""
    from mlflow.entities import Metric

    return [Metric(key, value, when, 0) for key, value in metrics.items()]


def _json(record: BaseModel, exclude: Any = None) -> str:
    return record.model_dump_json(indent=1, exclude=exclude)
