"""From what lm-eval logs of a task's documents to the task's score, as the report keeps it."""

from __future__ import annotations

from typing import Any

from tasks.evaluation.clusters import cluster_of
from tasks.evaluation.document_values import UnusableMetricError, document_value, metric_scale
from tasks.processes.model import Problem


def task_score(
    index: int, entry: dict[str, Any], leaves: dict[str, Any], samples: dict[str, Any]
) -> dict[str, Any]:
    """The score of one entry of the suite, as `TaskScore` keeps it, but for the mean itself.

    Args:
        index: the entry's place in the suite, for messages.
        entry: the entry.
        leaves: its lm-eval tasks by name: one, or the members of a group.
        samples: lm-eval's log of each document, by task.

    Raises:
        Problem: the metric is not a number for each document, no document has any text, or a
            document has no cluster.
    """
    metric, direction = entry["metric"], entry["higher_is_better"]
    ids: list[str] = []
    prompts: list[str] = []
    values: list[float] = []
    weights: list[float] = []
    not_finite_at: list[int] = []
    clusters: list[str] = []
    for leaf in leaves:
        for sample in samples[leaf]:
            if entry["filter"] not in (None, sample["filter"]):
                continue
            try:
                value, weight, finite = document_value(metric, direction, sample)
            except UnusableMetricError as error:
                raise Problem(str(error), place=f"tasks[{index}].metric") from None
            digest = sample["doc_hash"]
            ids.append(digest if len(leaves) == 1 else f"{leaf}:{digest}")
            prompts.append(sample["prompt_hash"])
            if "cluster" in entry:
                place = f"tasks[{index}].cluster"
                clusters.append(cluster_of(entry["cluster"], sample["doc"], leaf, place))
            if not finite:
                not_finite_at.append(len(values))
            values.append(value)
            weights.append(weight)
    if not sum(weights) > 0:
        raise Problem(f"task '{entry['task']}' has no text to score", place=f"tasks[{index}]")
    return {
        "task": entry["task"],
        "metric": metric,
        "higher_is_better": direction,
        "scale": metric_scale(metric),
        "doc_ids": ids,
        "prompt_hashes": prompts,
        "non_finite": len(not_finite_at),
        "not_finite_at": not_finite_at or None,
        "clusters": clusters or None,
        "values": values,
        "weights": weights,
    }


def mean_of_repeats(found: list[dict[str, Any]]) -> dict[str, Any]:
    """One report of several repeats: each document's mean value, and the mean of the odd counts."""
    first = found[0]
    scores = []
    for each in zip(*(report["scores"] for report in found), strict=True):
        columns = zip(*(score["values"] for score in each), strict=True)
        odd = sorted({place for score in each for place in score["not_finite_at"] or ()})
        counts = {
            kind: round(sum(score[kind] for score in each) / len(each))
            for kind in ("truncated", "empty", "cut_off", "looping", "answer_characters")
            if each[0].get(kind) is not None
        }
        values = [sum(column) / len(column) for column in columns]
        places = {"non_finite": len(odd), "not_finite_at": odd or None}
        scores.append(each[0] | counts | places | {"values": values})
    return first | {"scores": scores}
