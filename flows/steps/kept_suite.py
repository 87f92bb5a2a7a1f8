"""What a run keeps of its suite in MLflow: its documents' text, where that is wanted."""

from __future__ import annotations

from flows.settings.pipeline import Pipeline
from merge_core.text.plain import plain_log
from tasks.evaluation.kept_documents import kept_documents
from tasks.evaluation.suite import Suite

_log = plain_log("mergeflow")


def suite_to_keep(pipeline: Pipeline, suite: Suite) -> dict[str, str | bytes]:
    """The suite's files for the merge's run, by name; with a warning of what cannot be kept."""
    if pipeline.register_as.model is None:
        return {}
    kept = kept_documents(suite, pipeline.evaluate.keep_documents)
    for said in kept.left_out:
        _log.warning("warning: evaluate.keep_documents: %s", said)
    return dict(kept.files)
