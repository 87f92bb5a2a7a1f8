"""The evaluation process: `python -m tasks.evaluation.process`, started by `tasks.evaluate` only.

Loads one checkpoint, runs the suite's tasks with lm-eval and sends the documents' values back.
Messages: {"done", "total"} while it works, then {"result"} or {"problem"}.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import random
import sys
import time
from collections.abc import Callable
from typing import Any

from tasks.evaluation.clusters import check_cluster, cluster_of
from tasks.processes.model import Problem, Send, do_job, torch_device

_MEANS = ("mean", "nanmean", "bits_per_byte", "weighted_perplexity", "perplexity")
"""lm-eval's ways of combining documents that a sum of values over a sum of weights can express."""


def main() -> None:
    """Evaluate the job's checkpoint."""
    do_job(_evaluate)


def _evaluate(job: dict[str, Any], send: Send) -> dict[str, Any]:
    device = torch_device(job["device"])
    numpy, torch, evaluator = _import_libraries()
    settings = job["settings"]
    # lm-eval resolves data files against the working directory; a suite, against its own.
    os.chdir(job["directory"])
    entries = load_tasks(job)
    tasks = {name: task for leaves in entries for name, task in leaves.items()}
    for task in tasks.values():
        _set_examples(task, settings["num_fewshot"], settings["seed"])
    _check_clusters(job["tasks"], entries)

    progress = _Documents(list(tasks.values()), settings["limit"], send)
    random.seed(settings["seed"])
    numpy.random.seed(settings["seed"])  # the generator lm-eval's tasks draw from
    torch.manual_seed(settings["seed"])
    model = _load_model(job, device, progress.advance)
    outcome = evaluator.evaluate(
        lm=model,
        task_dict={"tasks": tasks},
        limit=settings["limit"],
        bootstrap_iters=0,
        log_samples=True,
        apply_chat_template=settings["apply_chat_template"],
        fewshot_as_multiturn=settings["apply_chat_template"],
    )
    return {
        "device": str(model.device),
        "truncated": len(model.observed.truncated),
        "scores": [
            _score(index, entry, leaves, outcome["samples"])
            | model.observed.counts(frozenset(leaves))
            for index, (entry, leaves) in enumerate(zip(job["tasks"], entries, strict=True))
        ],
    }


def _import_libraries() -> tuple[Any, Any, Any]:
    """Most of a small evaluation is imports; collecting garbage meanwhile costs a quarter more."""
    gc.disable()
    import numpy
    import torch
    import transformers.models.auto.modeling_auto  # noqa: F401 - slow, so here
    from lm_eval import evaluator

    import tasks.evaluation.lm_eval_model  # noqa: F401 - slow, so here

    gc.freeze()
    gc.enable()
    return numpy, torch, evaluator


def _load_model(job: dict[str, Any], device: str, advance: Callable[[int], None]) -> Any:
    from tasks.evaluation.lm_eval_model import ObservedLM

    settings = job["settings"]
    return ObservedLM(
        advance=advance,
        pretrained=job["checkpoint"],
        device=device,
        dtype=settings["dtype"],
        # log-probabilities of 16-bit logits would be rounded to 3 digits before they are summed
        softmax_dtype="float32",
        batch_size=settings["batch_size"],
        max_length=settings["max_length"],
        trust_remote_code=False,
    )


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


def _check_clusters(entries: list[dict[str, Any]], leaves: list[dict[str, Any]]) -> None:
    for index, (entry, own) in enumerate(zip(entries, leaves, strict=True)):
        field = entry.get("cluster")
        if field is None:
            continue
        for name, task in own.items():
            for document in itertools.islice(task.eval_docs, 1):
                check_cluster(field, document, name, f"tasks[{index}].cluster")


def _set_examples(task: Any, count: int | None, seed: int) -> None:
    own = task.get_config("num_fewshot")
    if count is None and own is None:
        task.set_config("num_fewshot", 0)
    elif count is not None and own != 0:
        task.set_config("num_fewshot", count)
    task.set_fewshot_seed(seed=seed)


def _score(
    index: int, entry: dict[str, Any], leaves: dict[str, Any], samples: dict[str, Any]
) -> dict[str, Any]:
    from tasks.evaluation.document_values import UnusableMetricError, document_value, metric_scale

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


def _meant(name: str, known: Any) -> str | None:
    from merge_core.errors import did_you_mean

    hint = did_you_mean(name, known)
    return hint if len(hint) < 400 else None


class _Documents:
    """Counts finished requests and tells it as documents, a few times a second."""

    def __init__(self, tasks: list[Any], limit: int | None, send: Send) -> None:
        self._tasks = tasks
        self._send = send
        self._total = sum(min(len(task.eval_docs), limit or sys.maxsize) for task in tasks)
        self._requests = 0
        self._finished = 0
        self._due = 0.0
        self._tell(0)

    def advance(self, amount: int) -> None:
        self._finished += amount
        if not self._requests:
            self._requests = sum(
                instance.repeats for task in self._tasks for instance in task.instances
            )
        now = time.monotonic()
        if now >= self._due or self._finished >= self._requests:
            self._due = now + 0.25
            self._tell(min(self._finished, self._requests) * self._total // self._requests)

    def _tell(self, done: int) -> None:
        with contextlib.suppress(OSError):
            self._send({"done": done, "total": self._total})


if __name__ == "__main__":
    main()
