"""What a run keeps of its suite in MLflow: files and documents' text, where that is wanted."""

from __future__ import annotations

from flows.settings.pipeline import Pipeline
from flows.steps.evaluating import threads_of
from merge_core.text.plain import plain_log
from tasks.evaluation.document_texts import document_texts
from tasks.evaluation.evaluators import Evaluators
from tasks.evaluation.kept_documents import MOST_BYTES, kept_documents
from tasks.evaluation.suite import Suite
from tasks.records import EvaluationReport

_log = plain_log("mergeflow")


def suite_to_keep(
    pipeline: Pipeline, suite: Suite, report: EvaluationReport, evaluators: Evaluators
) -> dict[str, str | bytes]:
    """The suite's files and documents for the merge's run, by name; with a warning of what cannot
    be kept.

    Args:
        report: the baseline's, which has every document that was evaluated.
        evaluators: their processes have the documents already.
    """
    if pipeline.register_as.model is None:
        return {}
    how = pipeline.evaluate
    kept = kept_documents(suite, how.keep_documents)
    files, left_out = dict(kept.files), list(kept.left_out)
    if how.keep_documents:
        room = MOST_BYTES - kept.size
        texts = document_texts(suite, report, evaluators, how.device, threads_of(how), room)
        files |= texts.files
        left_out.extend(texts.left_out)
    for said in left_out:
        _log.warning("warning: evaluate.keep_documents: %s", said)
    return dict(files)
