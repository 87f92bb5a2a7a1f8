"""Finds the merge methods of this room in its modules, so that no list has to name them."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterable, Iterator
from types import ModuleType

from merge_core.methods.base import Method

_INTERNAL = "internal"
"""The module whose methods only commands use, never a recipe."""
_FAMILIES = (
    "linear",
    "spherical",
    "task_arithmetic",
    "breadcrumbs_della",
    "model_stock",
    "sce",
    "nearswap_ram",
    "arcee_fusion",
    "data_free",
    "pcb",
    "spectral",
    "calibrated",
)
"""Modules and packages whose methods are listed first, in this order; others follow by name."""


def methods_of(room: ModuleType) -> tuple[dict[str, Method], dict[str, Method]]:
    """The methods for recipes, and the internal ones, by name, of a package and those in it.

    A method is a class that is derived from `Method` and has no underscore before its name.

    Raises:
        TypeError: a class is no complete method, or two have the same name.
    """
    for_recipes: list[Method] = []
    internal: list[Method] = []
    for family, module in sorted(_modules(room), key=lambda found: _rank(*found)):
        kinds = [kind for kind in vars(module).values() if _is_method_of(module, kind)]
        (internal if family == _INTERNAL else for_recipes).extend(kind() for kind in kinds)
    by_name(for_recipes + internal)
    return by_name(for_recipes), by_name(internal)


def by_name(methods: Iterable[Method]) -> dict[str, Method]:
    """Methods by the name that a recipe gives them.

    Raises:
        TypeError: one has no name, or two have the same.
    """
    found: dict[str, Method] = {}
    for method in methods:
        name = getattr(method, "name", None)
        if name is None:
            raise TypeError(f"the method {type(method).__qualname__} has no name")
        if name in found:
            both = f"{type(found[name]).__qualname__} and {type(method).__qualname__}"
            raise TypeError(f"two methods are called '{name}': {both}")
        found[name] = method
    return found


def _modules(room: ModuleType) -> Iterator[tuple[str, ModuleType]]:
    """Every module below a package, with its first name there."""
    prefix = f"{room.__name__}."
    for found in pkgutil.walk_packages(room.__path__, prefix):
        yield found.name.removeprefix(prefix).split(".")[0], importlib.import_module(found.name)


def _rank(family: str, module: ModuleType) -> tuple[int, str]:
    place = _FAMILIES.index(family) if family in _FAMILIES else len(_FAMILIES)
    return place, module.__name__


def _is_method_of(module: ModuleType, value: object) -> bool:
    return (
        inspect.isclass(value)
        and issubclass(value, Method)
        and value is not Method
        and value.__module__ == module.__name__
        and not value.__name__.startswith("_")
    )
