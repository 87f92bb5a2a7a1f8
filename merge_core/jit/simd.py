"""What the instructions that are written out as LLVM vectors have in common."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

_I32 = ir.IntType(32)


def in_every_lane(builder: Any, value: Any, lanes: int) -> Any:
    """A vector that holds one value in all of its `lanes`."""
    nothing = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = builder.insert_element(nothing, value, ir.Constant(_I32, 0))
    zeros = ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes)
    return builder.shuffle_vector(first, nothing, zeros)


def loaded(builder: Any, data: Any, place: Any, lanes: int) -> Any:
    """A vector of what lies from the index `place` on, which need not be aligned."""
    kind = ir.VectorType(data.type.pointee, lanes)
    at = builder.bitcast(builder.gep(data, [place]), kind.as_pointer())
    return builder.load(at, align=1)


def stored(builder: Any, data: Any, place: Any, vector: Any) -> None:
    """Write a vector from the index `place` on."""
    at = builder.bitcast(builder.gep(data, [place]), vector.type.as_pointer())
    builder.store(vector, at, align=1)
