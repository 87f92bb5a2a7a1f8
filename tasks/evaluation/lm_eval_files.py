"""What lm-eval task files say about their data, read without lm-eval and without running them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from merge_core.errors import RecipeError
from merge_core.files.strict_yaml import BoundedLoader, load_safely, read_text

LOCAL_FORMATS = ("json", "csv", "text", "parquet", "arrow", "xml")
"""`dataset_path` values that name a file format, the data being files named beside it."""


@dataclass(frozen=True)
class TaskFile:
    """One task YAML with its `include`s merged in."""

    path: Path
    config: dict[str, Any]


@dataclass(frozen=True)
class Unreachable:
    """Data that a task names and that is not on this disk."""

    missing: tuple[str, ...]
    """Local files that should be there."""
    remote: bool
    """The data is fetched from somewhere else."""


def read_own_tasks(directory: Path | None) -> dict[str, tuple[TaskFile, ...]]:
    """What YAML files below a directory define, by name: a task, or the tasks of a tag or group.

    A group with a member that is defined elsewhere is left out.
    """
    found: dict[str, tuple[TaskFile, ...]] = {}
    groups: dict[str, Any] = {}
    for path in sorted(directory.rglob("*.yaml")) if directory else ():
        config = _read(path)
        if isinstance(config.get("group"), str):
            groups[config["group"]] = config.get("task")
        elif isinstance(name := config.get("task"), str):
            found.setdefault(name, (TaskFile(path, config),))
    for (file,) in list(found.values()):
        tags = file.config.get("tag") or []
        for tag in [tags] if isinstance(tags, str) else tags:
            found[tag] = (*found.get(tag, ()), file)
    for _ in groups:  # as often as groups can be nested
        for group, listed in groups.items():
            names = [str(_member(one)) for one in listed or []]
            if names and all(name in found for name in names):
                found[group] = tuple(file for name in names for file in found[name])
    return found


def data_files(config: dict[str, Any], directory: Path) -> list[Path]:
    """The local files that a task reads; relative paths start at the suite's directory."""
    names = [*_named(config), str(config.get("dataset_path"))]
    return [path for name in names for path in _on_disk(name, directory)]


def unreachable_data(config: dict[str, Any], directory: Path) -> Unreachable:
    """Which of a task's data is missing or remote."""
    names = _named(config)
    source = config.get("dataset_path")
    local = source in LOCAL_FORMATS or bool(_on_disk(str(source), directory))
    here = [name for name in names if "://" not in name]
    return Unreachable(
        missing=tuple(name for name in here if not _on_disk(name, directory)),
        remote=not local or len(here) < len(names),
    )


def task_metrics(config: dict[str, Any]) -> list[str]:
    """Names of the metrics that a task file lists; empty when it leaves them to lm-eval."""
    return [
        entry["metric"]
        for entry in config.get("metric_list") or []
        if isinstance(entry, dict) and isinstance(entry.get("metric"), str)
    ]


class _Loader(BoundedLoader):
    """Safe YAML in which lm-eval's `!function module.name` is only text."""


def _as_text(loader: yaml.SafeLoader, node: yaml.Node) -> str:
    return str(node.value)


_Loader.add_constructor("!function", _as_text)


def _read(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    path = path.resolve()
    if path in seen:
        raise RecipeError("includes itself", where=str(path))
    documents = load_safely(read_text(path), _Loader, str(path))
    config = documents[0] if len(documents) == 1 else None
    if not isinstance(config, dict):
        return {}
    includes = config.pop("include", None) or []
    merged: dict[str, Any] = {}
    listed = [includes] if isinstance(includes, str) else includes
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise RecipeError("include must be a file's name, or a list of them", where=str(path))
    for name in listed:
        merged.update(_read(path.parent / name, (*seen, path)))
    return merged | config


def _member(listed: Any) -> Any:
    return listed.get("task") if isinstance(listed, dict) else listed


def _named(config: dict[str, Any]) -> list[str]:
    options = config.get("dataset_kwargs") or {}
    files = options.get("data_files") or []
    names: list[str] = []
    for value in files.values() if isinstance(files, dict) else [files]:
        names.extend([value] if isinstance(value, str) else value)
    if isinstance(options.get("data_dir"), str):
        names.append(options["data_dir"])
    return names


def _on_disk(name: str, directory: Path) -> list[Path]:
    path = directory / name
    if path.is_file():
        return [path]
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    if any(mark in name for mark in "*?[") and not Path(name).is_absolute():
        return sorted(file for file in directory.glob(name) if file.is_file())
    return []
