"""A suite: which lm-eval tasks judge a checkpoint, with which settings, read from one YAML file.

What a suite measures is its settings, its task files and its data, so its digest covers all three.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from merge_core.errors import RecipeError, did_you_mean
from merge_core.files.digests import digest_of, sha256_file
from merge_core.files.rule_words import rule_in_words
from merge_core.files.strict_yaml import load_yaml, yaml_path
from tasks.evaluation.lm_eval_catalogue import lm_eval_catalogue
from tasks.evaluation.lm_eval_files import (
    data_files,
    read_own_tasks,
    task_metrics,
    unreachable_data,
)
from tasks.evaluation.settings import SuiteSettings
from tasks.processes.shipped_files import shipped

SHIPPED = shipped("configs") / "suites"
"""Suites that come with the project, usable by name."""

HIGHER_IS_BETTER = {
    "acc": True,
    "acc_norm": True,
    "acc_bytes": True,
    "acc_mutual_info": True,
    "exact_match": True,
    "bits_per_byte": False,
    "byte_perplexity": False,
    "word_perplexity": False,
    "perplexity": False,
}
"""Direction of the common metrics; for any other the suite has to say it."""


class SuiteTask(BaseModel):
    """One measurement: an lm-eval task and the metric of it that counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str = Field(min_length=1)
    """An lm-eval task, group or tag. A group counts as one: the mean over all its documents."""
    metric: str = Field(min_length=1)
    """A metric that lm-eval gives for each document: `acc`, `bits_per_byte`, `exact_match`, ..."""
    higher_is_better: bool
    """May be left out for the common metrics. lm-eval's own opinion of the task must agree."""
    filter: str | None = None
    """Which answer filter counts, for tasks with several (`strict-match`, `flexible-extract`)."""
    cluster: str | None = Field(default=None, min_length=1)
    """The documents' field that says which of them were drawn together: a passage with several
    questions, a subject, a file. Null: each was drawn by itself."""
    weight: float | None = Field(default=None, ge=0.0, le=1000.0, allow_inf_nan=False)
    """What the task counts in the mean over the tasks, beside the others. Null: 1. 0: the task is
    only guarded against a loss."""

    @model_serializer(mode="wrap")
    def _later_keys_where_they_are_written(
        self, handler: SerializerFunctionWrapHandler
    ) -> dict[str, Any]:
        """Suites that write none keep their digest."""
        values: dict[str, Any] = handler(self)
        for key in ("cluster", "weight"):
            if getattr(self, key) is None:
                values.pop(key, None)
        return values

    @model_validator(mode="before")
    @classmethod
    def _known_direction(cls, values: Any) -> Any:
        if isinstance(values, dict) and "higher_is_better" not in values:
            metric = values.get("metric")
            if metric in HIGHER_IS_BETTER:
                return {**values, "higher_is_better": HIGHER_IS_BETTER[metric]}
        return values


class Split(BaseModel):
    """A suite in two halves that share no document, and no group of documents."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    search: float = Field(gt=0.0, lt=1.0)
    """Share of the groups in the half that is for searching, `SUITE#search`: soups, scales. The
    others are what decides."""


Part = Literal["decide", "search"]


class Suite(BaseModel):
    """The measurements that a merged checkpoint has to pass, with where their files are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Shown in reports and part of file names."""
    description: str = ""
    """What the suite is for, for people; not part of the digest."""
    include: str | None = None
    """Directory with lm-eval task YAMLs, relative to the suite file; null: lm-eval's own only."""
    tasks: tuple[SuiteTask, ...] = Field(min_length=1)
    """Each task appears once: rules and results are named by task."""
    settings: SuiteSettings = SuiteSettings()
    """How lm-eval runs."""
    split: Split | None = None
    """Set documents aside that a search may use; null: the suite is not split."""
    part: Part = "decide"
    """Which half this is; filled in when it is read."""
    timeout_minutes: float = Field(default=60, gt=0, le=7 * 24 * 60)
    """An evaluation that takes longer is killed; not part of the digest."""
    directory: str = ""
    """Absolute directory of the suite file, filled in when it is read."""

    @model_serializer(mode="wrap")
    def _halves_where_there_are_any(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Suites that are not split keep their digest."""
        values: dict[str, Any] = handler(self)
        if self.split is None:
            values.pop("split", None)
            values.pop("part", None)
        return values

    @model_validator(mode="after")
    def _code_of_tasks_that_are_there(self) -> Self:
        names = [task.task for task in self.tasks]
        for name in self.settings.run_code:
            if name not in names:
                raise ValueError(
                    f"settings.run_code names '{name}', which is no task of this suite;"
                    f" {did_you_mean(name, names)}"
                )
        return self

    @field_validator("tasks")
    @classmethod
    def _each_task_once(cls, tasks: tuple[SuiteTask, ...]) -> tuple[SuiteTask, ...]:
        names = [task.task for task in tasks]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"task '{name}' is listed twice; a task counts with one metric")
        return tasks

    @field_validator("tasks")
    @classmethod
    def _one_counts(cls, tasks: tuple[SuiteTask, ...]) -> tuple[SuiteTask, ...]:
        if all(task.weight == 0 for task in tasks):
            raise ValueError("every task has weight 0; one has to count in the mean")
        return tasks

    @property
    def include_directory(self) -> Path | None:
        """Absolute directory of the suite's own task files, if it has any."""
        return Path(self.directory, self.include) if self.include else None


def shipped_suites() -> dict[str, str]:
    """Names of the suites that come with the project, each with what it is for."""
    files = sorted(SHIPPED.glob("*/suite.yaml"))
    return {file.parent.name: str(load_yaml(file).get("description", "")) for file in files}


def load_suite(reference: str | Path) -> Suite:
    """Read a suite from a directory with `suite.yaml`, a YAML file, or a shipped suite's name.

    Raises RecipeError with the place in the YAML, and what was probably meant.
    """
    name, mark, part = str(reference).rpartition("#")
    path = _find(name if mark and part in ("search", "decide") else reference)
    where = str(path)
    values = load_yaml(path)
    if "part" in values:
        raise RecipeError("'part' is no key; name SUITE#search where it is used", where=where)
    if "directory" in values:
        raise RecipeError("'directory' is where the file is, not something it says", where=where)
    try:
        suite = Suite.model_validate({**values, "directory": str(path.parent.absolute())})
    except ValidationError as error:
        raise _explained(error, where) from None
    if mark and part in ("search", "decide"):
        if suite.split is None:
            raise RecipeError(
                f"is not split, so it has no half '{part}'",
                where=where,
                mend="write `split: {search: 0.5}` in it, or name the suite without #" + part,
            )
        suite = suite.model_copy(update={"part": part})
    _check_files(suite, where)
    return suite


def suite_digest(suite: Suite) -> str:
    """sha256 over everything in a suite that can change a score.

    Its settings, the tasks it names, every file below its `include` directory (task YAMLs may
    include each other and call python beside them), and the data files that its tasks read.
    """
    return digest_of(suite_content(suite))


def suite_content(suite: Suite) -> dict[str, Any]:
    """What a suite's digest is computed from: its definition, and sha256 by name of its files."""
    directory = Path(suite.directory)
    files = {os.path.relpath(path, directory): sha256_file(path) for path in suite_files(suite)}
    settings = suite.model_dump(
        mode="json", exclude={"directory", "description", "timeout_minutes"}
    )
    return {"suite": settings, "files": files}


def is_self_contained(suite: Suite) -> bool:
    """Whether the suite's tasks and data are all on this disk, so that no network is needed."""
    own = read_own_tasks(suite.include_directory)
    return all(
        task.task in own
        and not any(
            unreachable_data(file.config, Path(suite.directory)).remote for file in own[task.task]
        )
        for task in suite.tasks
    )


def task_directories(suite: Suite) -> list[Path] | None:
    """The directories that hold the suite's tasks; None when lm-eval has to look everywhere.

    That is for lm-eval's groups and tags, whose members may be anywhere.
    """
    own = suite.include_directory
    known = read_own_tasks(own)
    shipped = [task.task for task in suite.tasks if task.task not in known]
    found = lm_eval_catalogue().tasks if shipped else {}
    if any(name not in found for name in shipped):
        return None
    # The suite's own come last: for lm-eval, later definitions win.
    return [*sorted({found[name] for name in shipped}), *([own] if own else [])]


def _find(reference: str | Path) -> Path:
    path = Path(reference).expanduser()
    if path.is_dir():
        if (path / "suite.yaml").is_file():
            return path / "suite.yaml"
        raise RecipeError("has no suite.yaml", where=str(path), mend="name a suite directory")
    if path.is_file():
        return path
    name = str(reference)
    names = sorted(shipped_suites())
    if name in names:
        return SHIPPED / name / "suite.yaml"
    raise RecipeError(
        f"no suite '{name}': neither a directory, a file nor a shipped suite",
        mend=f"{did_you_mean(name, names)} (or give the path of a suite.yaml)",
    )


def _check_files(suite: Suite, where: str) -> None:
    directory = suite.include_directory
    if directory is not None and not directory.is_dir():
        raise RecipeError(f"no directory {directory}", where=f"{where}: include")
    known = read_own_tasks(directory)
    for index, task in enumerate(suite.tasks):
        place = f"{where}: tasks[{index}]"
        if task.task not in known and task.task not in lm_eval_catalogue().names:
            raise RecipeError(
                f"no task '{task.task}', neither in this suite nor in lm-eval",
                where=f"{place}.task",
                mend=_meant(task.task, known),
            )
        for file in known.get(task.task, ()):
            missing = unreachable_data(file.config, Path(suite.directory)).missing
            if missing:
                raise RecipeError(
                    f"data file '{missing[0]}' does not exist",
                    where=f"{file.path}: dataset_kwargs.data_files",
                    mend=f"paths are relative to {suite.directory}",
                )
            metrics = task_metrics(file.config)
            if metrics and task.metric not in metrics:
                raise RecipeError(
                    f"task '{task.task}' has no metric '{task.metric}'",
                    where=f"{place}.metric",
                    mend=did_you_mean(task.metric, metrics),
                )


def _meant(name: str, known: Collection[str]) -> str:
    if known and (hint := did_you_mean(name, known)).startswith("did you mean"):
        return hint
    close = difflib.get_close_matches(name, lm_eval_catalogue().tasks, n=3)
    own = f"the suite's own: {', '.join(known)}" if known else "the suite has none of its own"
    return f"did you mean {' or '.join(close)}? ({own})" if close else own


def suite_files(suite: Suite) -> list[Path]:
    """The files that a suite's digest covers: tasks, code beside them, data on this disk."""
    directory = suite.include_directory
    files: set[Path] = set()
    if directory is not None:
        files.update(
            path
            for path in directory.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
        )
    for task_files in read_own_tasks(directory).values():
        for file in task_files:
            files.update(data_files(file.config, Path(suite.directory)))
    return sorted(files)


def _explained(error: ValidationError, where: str) -> RecipeError:
    # A misspelt key is also a missing one; the misspelling says more.
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    place = [part for part in first["loc"] if part != ""]
    here = f"{where}: {yaml_path(tuple(place))}" if place else where
    if first["type"] == "extra_forbidden":
        inner: dict[str, type[BaseModel]] = {"settings": SuiteSettings, "tasks": SuiteTask}
        model = Suite if len(place) == 1 else inner.get(str(place[0]), Suite)
        known = [name for name in model.model_fields if name not in ("directory", "part")]
        return RecipeError(
            f"unknown key '{place[-1]}'", where=here, mend=did_you_mean(str(place[-1]), known)
        )
    if first["type"] == "missing":
        mend = None
        if place[-1] == "higher_is_better":
            mend = "say higher_is_better: true or false; it is only known for " + ", ".join(
                HIGHER_IS_BETTER
            )
        return RecipeError(f"'{place[-1]}' is missing", where=here, mend=mend)
    return RecipeError(rule_in_words(first), where=here)
