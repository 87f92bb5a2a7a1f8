"""A suite's tasks as lm-eval loads them, each held against what the suite says of it.

Imported in evaluation processes only: loading tasks loads lm-eval, and runs a suite's python.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from merge_core.errors import did_you_mean
from tasks.evaluation.clusters import check_cluster
from tasks.processes.model import Problem

_MEANS = ("mean", "nanmean", "bits_per_byte", "weighted_perplexity", "perplexity")
"""lm-eval's ways of combining documents that a sum of values over a sum of weights can express."""


def load_tasks(job: dict[str, Any]) -> list[dict[str, Any]]:
    """For each entry of the suite its lm-eval tasks by name: one, or all of a group's."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=job["include"], include_defaults=job["defaults"])
    entries: list[dict[str, Any]] = []
    taken: dict[str, str] = {}
    for index, entry in enumerate(job["tasks"]):
        place, name = f"tasks[{index}]", entry["task"]
        if name not in manager.task_index:
            raise Problem(
                f"no lm-eval task '{name}'",
                place=f"{place}.task",
                mend=_meant(name, manager.all_tasks),
            )
        leaves = manager.load([name])["tasks"]
        for leaf, task in leaves.items():
            if leaf in taken:
                raise Problem(
                    f"task '{leaf}' is measured twice: as {taken[leaf]} and as {name}", place=place
                )
            taken[leaf] = name
            _check_task(task, entry, place)
            task.aggregation = _Uncombined
        entries.append(leaves)
    return entries


class _Uncombined(dict[str, Callable[[list[Any]], int]]):
    """In place of a task's aggregations: the number of documents.

    Scores are computed from the documents. lm-eval would combine every metric of a task, the ones
    that do not count too, and some cannot bear a broken model (`exp` overflows).
    """

    def __missing__(self, metric: str) -> Callable[[list[Any]], int]:
        return len


def _check_task(task: Any, entry: dict[str, Any], place: str) -> None:
    metric = entry["metric"]
    higher = task.higher_is_better()
    if metric in higher and higher[metric] is not None:
        if bool(higher[metric]) != entry["higher_is_better"]:
            better = "higher" if higher[metric] else "lower"
            raise Problem(
                f"lm-eval's task '{task.task_name}' says that {better} {metric} is better;"
                " the suite says the opposite",
                place=f"{place}.higher_is_better",
            )
    elif metric not in higher:
        raise Problem(
            f"task '{task.task_name}' has no metric '{metric}'",
            place=f"{place}.metric",
            mend=_meant(metric, higher),
        )
    combine = getattr(task.aggregation().get(metric), "__name__", "mean")
    if combine not in _MEANS:
        raise Problem(
            f"task '{task.task_name}' combines {metric} over documents by '{combine}', which cannot"
            " be compared document by document",
            place=f"{place}.metric",
            mend="choose a metric that is a mean over documents",
        )
    filters = [one["name"] for one in task.get_config("filter_list") or [{"name": "none"}]]
    if entry["filter"] is None and len(filters) > 1:
        raise Problem(
            f"task '{task.task_name}' has several answer filters",
            place=f"{place}.filter",
            mend="name one: " + ", ".join(filters),
        )
    if entry["filter"] not in (None, *filters):
        raise Problem(
            f"no answer filter '{entry['filter']}'",
            place=f"{place}.filter",
            mend=_meant(entry["filter"], filters),
        )


def check_clusters(entries: list[dict[str, Any]], leaves: list[dict[str, Any]]) -> None:
    """Refuse a `cluster` that a task's documents have no field for; see `check_cluster`."""
    for index, (entry, own) in enumerate(zip(entries, leaves, strict=True)):
        field = entry.get("cluster")
        if field is None:
            continue
        for name, task in own.items():
            for document in itertools.islice(task.eval_docs, 1):
                check_cluster(field, document, name, f"tasks[{index}].cluster")


def set_examples(task: Any, count: int | None, seed: int) -> None:
    """Set how many solved examples precede each question, and how they are drawn.

    None leaves the number to the task. A task that says 0 keeps it, as for lm-eval.
    """
    own = task.get_config("num_fewshot")
    if count is None and own is None:
        task.set_config("num_fewshot", 0)
    elif count is not None and own != 0:
        task.set_config("num_fewshot", count)
    task.set_fewshot_seed(seed=seed)


def _meant(name: str, known: Any) -> str | None:
    hint = did_you_mean(name, known)
    return hint if len(hint) < 400 else None


def check_code(task: Any, name: str, named: list[str], place: str) -> None:
    """Refuse a task that executes what models write, unless the suite names it.

    Raises:
        Problem: it is not named.
    """
    if getattr(task, "UNSAFE_CODE", False) and name not in named:
        raise Problem(
            f"task '{name}' executes what the model writes, on this machine",
            place=place,
            mend=f"write `run_code: [{', '.join([*named, name])}]` in the suite's settings, if you"
            " mean it and nothing depends on this machine; or leave the task out",
        )


def set_generation(task: Any, options: dict[str, Any] | None) -> None:
    """Have a task's answers generated as the suite says, and not as the task does."""
    if options and task.OUTPUT_TYPE == "generate_until":
        task.set_config(key="generation_kwargs", value=options, update=True)
