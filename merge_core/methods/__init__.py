"""The merge methods: each is one class, in a module of this room or registered from outside.

A class derived from `Method` in any module here is found by itself. Public: `METHODS`,
`all_methods`, `method_named`, `find_method`, and `register` for methods of one's own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from merge_core.errors import RecipeError, did_you_mean
from merge_core.methods import external
from merge_core.methods.base import Method
from merge_core.methods.discovery import methods_of

METHODS: dict[str, Method]
"""The methods of this package that a recipe may name, by name."""
_INTERNAL: dict[str, Method]
"""The methods of this package that only commands use, by name."""
METHODS, _INTERNAL = methods_of(sys.modules[__name__])


def register(method: type[Method]) -> type[Method]:
    """Let recipes of this process name a method of one's own; also as a decorator of its class.

    Every process of a pipeline finds a method that an installed package names as an entry point
    (`merge_core.methods.external`).

    Raises:
        RecipeError: the class is incomplete, or its name is taken by another method.
    """
    external.register(method, built_in=METHODS | _INTERNAL)
    return method


def all_methods() -> dict[str, Method]:
    """Every method that a recipe may name here: those of this package first."""
    outside = external.external_methods()
    return METHODS | {name: method for name, method in outside.items() if name not in METHODS}


def find_method(name: str) -> Method | None:
    """The method of this name, from here or outside; None if there is none.

    Raises:
        RecipeError: an installed package names it, and it cannot be loaded.
    """
    return METHODS.get(name) or _INTERNAL.get(name) or external.external_method(name)


_OTHER_NAMES = {
    **dict.fromkeys(("average", "mean", "weighted_average", "soup", "lerp"), "'linear'"),
    **dict.fromkeys(("frankenmerge", "stack", "concat"), "'passthrough', with slices"),
    "dare": "'dare_linear' or 'dare_ties'",
}
"""What people call a method elsewhere, and what to write here."""


def method_named(name: str, where: str = "merge_method") -> Method:
    """The method of this name.

    Raises:
        RecipeError: there is none; the message proposes the closest.
    """
    method = find_method(name)
    if method is None:
        known = [*METHODS, *external.external_names()]
        other = _OTHER_NAMES.get(name.lower().replace("-", "_"))
        if other is not None:
            raise RecipeError(f"unknown method '{name}'; write {other}", where=where)
        raise RecipeError(f"unknown method '{name}'; {did_you_mean(name, known)}", where=where)
    return method


def external_code(names: Iterable[str]) -> dict[str, str]:
    """For each of these methods that comes from outside, what stands for its code in a digest.

    Raises:
        RecipeError: a method's source file cannot be read.
    """
    outside = sorted({name for name in names if name not in METHODS and name not in _INTERNAL})
    return {name: external.code_of(method_named(name)) for name in outside}
