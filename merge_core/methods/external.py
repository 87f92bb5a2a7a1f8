"""Merge methods from outside this package: registered by a program, or by an installed package.

A program calls `register`. A package names its methods as entry points of the group
`mergeflow.methods`, so that every process of a pipeline finds them:

    [project.entry-points."mergeflow.methods"]
    capped_task_arithmetic = "my_package.methods:CappedTaskArithmetic"
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from merge_core.errors import MergeflowError, RecipeError, one_line
from merge_core.methods.base import Method

GROUP = "mergeflow.methods"
"""The group of entry points that name methods."""

_registered: dict[str, Method] = {}


def register(method: type[Method], *, built_in: Mapping[str, Method]) -> None:
    """Let recipes of this process name a method. One that is registered again replaces itself.

    Raises:
        RecipeError: the class is incomplete, or its name is taken by another method.
    """
    made = _made(method, f"{method.__module__}.{method.__qualname__}")
    other = built_in.get(made.name) or _registered.get(made.name)
    if other is not None and _place(type(other)) != _place(method):
        raise RecipeError(
            f"the name '{made.name}' is taken by the method {_place(type(other))}",
            where=_place(method),
            mend="give the class another `name`",
        )
    _registered[made.name] = made


def external_method(name: str) -> Method | None:
    """The method of this name from outside; None if there is none.

    Raises:
        RecipeError: an installed package names it, and it cannot be loaded.
    """
    if name in _registered:
        return _registered[name]
    entry = _entries().get(name)
    return _loaded(entry) if entry is not None else None


def external_methods() -> dict[str, Method]:
    """Every method from outside, by name; packages whose methods cannot be loaded are left out."""
    found = dict(_registered)
    for name, entry in _entries().items():
        try:
            found.setdefault(name, _loaded(entry))
        except MergeflowError:
            continue
    return found


def external_names() -> list[str]:
    """The names that `external_method` knows. No code of a package is run."""
    return sorted({*_registered, *_entries()})


def code_of(method: Method) -> str:
    """What stands for an external method's code in a plan's digest: sha256 of its source file.

    Raises:
        RecipeError: the file cannot be found or read.
    """
    kind = type(method)
    try:
        source = inspect.getsourcefile(kind)
        data = Path(source).read_bytes() if source else b""
    except (OSError, TypeError):
        data = b""
    if not data:
        raise RecipeError(
            f"the method '{method.name}' has no source file, so results could not be told apart"
            " from those of an older version of it",
            where=_place(kind),
            mend="define the class in a Python file that is installed or imported",
        )
    return hashlib.sha256(data).hexdigest()


@functools.cache
def _entries() -> dict[str, EntryPoint]:
    """Entry points by name; of two with the same name the first that Python finds."""
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        found.setdefault(entry.name, entry)
    return found


@functools.cache
def _loaded(entry: EntryPoint) -> Method:
    package = entry.dist.name if entry.dist is not None else entry.value
    try:
        kind = entry.load()
    except Exception as error:
        raise RecipeError(
            f"the package {package} offers the method '{entry.name}', which cannot be loaded:"
            f" {type(error).__name__}: {one_line(error)}",
            where=entry.value,
            mend=f"mend or uninstall {package}",
        ) from error
    method = _made(kind, entry.value)
    if method.name != entry.name:
        raise RecipeError(
            f"the package {package} offers the method '{entry.name}', but the class calls itself"
            f" '{method.name}'",
            where=entry.value,
            mend=f"mend or uninstall {package}",
        )
    return method


def _made(kind: object, where: str) -> Method:
    if not (inspect.isclass(kind) and issubclass(kind, Method)):
        raise RecipeError(
            "a merge method is a class derived from merge_core.methods.Method", where=where
        )
    lacking = [name for name in ("name", "summary", "paper") if not hasattr(kind, name)]
    if lacking or inspect.isabstract(kind):
        needed = lacking or sorted(kind.__abstractmethods__)
        raise RecipeError(f"the class lacks {', '.join(needed)}", where=where)
    return kind()


def _place(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
