"""What a compiled kernel and its caller agree on: kinds of arguments, and what an entry gives back.

It stands apart so that the compiler (`numba_compiler`) and what is compiled (`kernel`) both know it
and need not know each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from numpy.typing import NDArray

Array = NDArray[Any]
"""A run of stored values, see `merge_core.jit.formats`."""
Kinds = tuple[str, ...]
"""The types of arguments: a numpy dtype's character for a number, the same after "[" for an array,
"-" for None, and "(" and ")" around those of a tuple."""
NOTHING = "-"
REFUSED = 2
"""What an entry gives for an array that is not contiguous or has not one dimension."""
VARIANTS: list[tuple[Callable[..., Any], Callable[..., Any]]] = []
"""Functions whose code depends on the types of their arguments, each with what chooses it, that the
compiler has yet to be told of."""


def chosen_by_type(stub: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a function its code: the decorated one returns it, from the types of the arguments."""

    def register(choose: Callable[..., Any]) -> Callable[..., Any]:
        VARIANTS.append((stub, choose))
        return choose

    return register


class AnyKernel(Protocol):
    """A kernel as the compiler sees it: hashable, since each is compiled once."""

    name: str
    function: Callable[..., Any]

    def __hash__(self) -> int: ...


class Generator(Protocol):
    """An instruction as the compiler sees it."""

    generator: Callable[..., Any]

    def __hash__(self) -> int: ...
