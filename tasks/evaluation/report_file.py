"""Evaluations as files of their own: written once, and read as what a stranger may have written."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from merge_core.errors import RecipeError
from merge_core.files.bounded_json import parse_json
from merge_core.files.named_file import open_named
from merge_core.files.new_file import write_new
from merge_core.files.rule_words import rule_in_words
from merge_core.files.strict_yaml import yaml_path
from tasks.records import EvaluationReport

MAX_BYTES = 128 << 20
"""A report on a million documents has 100 MB."""
_MEND = "write it with `mergeflow evaluate CHECKPOINT SUITE --out FILE`"
_NEAR = 1e-6


def check_new(path: Path) -> None:
    """Refuse the place of a report before its evaluation begins.

    Raises:
        RecipeError: something has this name, or there is no such directory.
    """
    if path.exists() or path.is_symlink():
        raise RecipeError("exists already", where=str(path), mend="name a new file")
    if not path.absolute().parent.is_dir():
        raise RecipeError("its directory does not exist", where=str(path), mend="make it first")


def write_report(report: EvaluationReport, path: Path) -> None:
    """Write a report to a file that is not there yet.

    Raises:
        RecipeError: it cannot be written.
    """
    try:
        write_new(path, report.model_dump_json(indent=1) + "\n")
    except OSError as error:
        raise RecipeError(f"cannot be written: {error.strerror}", where=str(path)) from None


def read_report(path: Path) -> EvaluationReport:
    """Read a report, and hold its scores against its documents.

    Raises:
        RecipeError: it cannot be read, or is no report.
    """
    where = str(path)
    try:
        with open_named(path) as file:
            size = os.fstat(file.fileno()).st_size
            content = file.read(MAX_BYTES + 1) if size <= MAX_BYTES else b""
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}", where=where, mend=_MEND) from None
    if max(size, len(content)) > MAX_BYTES:
        raise RecipeError(f"is larger than {MAX_BYTES >> 20} MiB", where=where)
    try:
        value = parse_json(content, unique_keys=True, finite=True)
    except ValueError:
        raise RecipeError("is not JSON as it is written here", where=where, mend=_MEND) from None
    try:
        report = EvaluationReport.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = yaml_path(first["loc"])
        said = "is not known" if first["type"] == "extra_forbidden" else rule_in_words(first)
        raise RecipeError(
            f"is no report of an evaluation: {f'{place}: ' if place else ''}{said}",
            where=where,
            mend=_MEND,
        ) from None
    _check_scores(report, where)
    return report


def check_same_tasks(paths: Sequence[Path], reports: Sequence[EvaluationReport]) -> None:
    """Refuse reports from which a task was left out: it would be judged by the others.

    A report of a failed evaluation has no scores, and is left to the decision.

    Raises:
        RecipeError: names a task that one has and another has not.
    """
    scored = [
        (path, {score.task: score.metric for score in report.scores})
        for path, report in zip(paths, reports, strict=True)
        if report.failure is None
    ]
    for path, tasks in scored[1:]:
        other, expected = scored[0]
        for task in sorted({*tasks, *expected}):
            if tasks.get(task) != expected.get(task):
                raise RecipeError(
                    f"does not have the same scores as {other}: task '{task}'",
                    where=str(path),
                    mend="evaluate both with the same suite",
                )


def _check_scores(report: EvaluationReport, where: str) -> None:
    tasks = [score.task for score in report.scores]
    if not tasks and report.failure is None:
        raise RecipeError("has no scores", where=where, mend=_MEND)
    for score in report.scores:
        if tasks.count(score.task) > 1:
            raise RecipeError(f"has task '{score.task}' twice", where=where, mend=_MEND)
        weight = math.fsum(score.weights)
        if not (weight > 0 and min(score.weights) >= 0):
            raise RecipeError(
                f"task '{score.task}' has no documents, or weights below 0", where=where, mend=_MEND
            )
        ratio = math.fsum(score.values) / weight
        is_power = score.scale == "power_of_two"
        found = 2.0**ratio if is_power and ratio < 1024 else ratio
        if not math.isclose(found, score.score, rel_tol=_NEAR, abs_tol=_NEAR):
            raise RecipeError(
                f"the score of task '{score.task}' is {score.score:.6g}, and its documents make"
                f" {found:.6g}",
                where=where,
                mend=_MEND,
            )
