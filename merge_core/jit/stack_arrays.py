"""Small arrays inside kernels, on the stack: kernels allocate nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from merge_core.jit.kernel import instruction
from merge_core.jit.lazy_numba import types

_ITEM_BYTES = {"float64": 8, "int32": 4, "uint32": 4}


def array_on_stack(dtype: str, size: int) -> Callable[..., Any]:
    """A function for kernels: an array of one dimension, of any content, for the time of a call.

    Each call in a kernel's text is one array, in a loop too.
    """

    def array(typing_context: Any) -> Any:
        kind = types.Array(getattr(types, dtype), 1, "C")

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            element = context.get_data_type(kind.dtype)
            with builder.goto_entry_block():
                place = builder.alloca(ir.ArrayType(element, size))
            count, itemsize = (ir.Constant(ir.IntType(64), n) for n in (size, _ITEM_BYTES[dtype]))
            made = context.make_array(kind)(context, builder)
            made.data = builder.bitcast(place, element.as_pointer())
            made.meminfo = ir.Constant(made.meminfo.type, None)
            made.parent = ir.Constant(made.parent.type, None)
            made.nitems, made.itemsize = count, itemsize
            made.shape = ir.Constant(made.shape.type, [count])
            made.strides = ir.Constant(made.strides.type, [itemsize])
            return made._getvalue()

        return kind(), generate

    return instruction(array)
