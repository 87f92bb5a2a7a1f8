"""Kernels become machine code: numba compiles them, and a small entry unpacks their arguments.

Only imported when a kernel is called whose machine code is not kept yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import llvmlite.binding as llvm
import numba
import numba.extending
import numpy as np
from llvmlite import ir
from numba.core import types as numba_types
from numba.core.registry import cpu_target
from numba.np.numpy_support import as_dtype, from_dtype

from merge_core.jit.calling_convention import (
    NOTHING,
    REFUSED,
    VARIANTS,
    AnyKernel,
    Generator,
    Kinds,
)
from merge_core.jit.code_cache import MachineCode

types: Any = numba_types
_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": False,
    # Neither called by the interpreter nor counting references, so the code needs nothing of numba.
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "_nrt": False,
}
_BYTE, _INT, _SLOT = ir.IntType(8), ir.IntType(32), 8
"""Each packed value takes a slot of 8 bytes."""

_DATA, _RANK, _EXTENTS, _FLAGS = 0, 8, 16, 48
"""Fields of numpy's `PyArrayObject_fields`, from the end of the object's head."""
_PLAIN = 0x0001 | 0x0100
"""NPY_ARRAY_C_CONTIGUOUS and NPY_ARRAY_ALIGNED."""


def machine_code(kernel: AnyKernel, kinds: Kinds) -> MachineCode:
    """Compile a kernel for arguments of these kinds."""
    signature = _types(iter(kinds))
    dispatcher = _dispatcher(kernel)
    dispatcher.compile(signature)
    compiled = dispatcher.overloads[signature]
    symbol = f"entry_of_{kernel.name}"
    module = llvm.parse_assembly(compiled.library.get_llvm_str())
    module.link_in(llvm.parse_assembly(str(_entry(symbol, compiled))))
    unknown = [f.name for f in module.functions if f.is_declaration and f.name[:5] != "llvm."]
    if unknown:
        raise AssertionError(f"{kernel.name} needs {', '.join(unknown)} at run time")
    result = types.unliteral(compiled.signature.return_type)
    kind = NOTHING if result == types.none else as_dtype(result).char
    target_machine = compiled.library.codegen._tm
    return MachineCode(symbol, kind, target_machine.emit_object(module))


def _entry(symbol: str, compiled: Any) -> Any:
    """A module with the function that is called from outside: it unpacks the arguments."""
    context, description = compiled.target_context, compiled.fndesc
    module = context.create_module(symbol)
    callee = ir.Function(
        module,
        context.call_conv.get_function_type(description.restype, description.argtypes),
        description.llvm_func_name,
    )
    kind = ir.FunctionType(_INT, [_BYTE.as_pointer()])
    function = ir.Function(module, kind, symbol)
    builder = ir.IRBuilder(function.append_basic_block())
    packed = _Packed(context, builder, function.args[0])
    result = packed.place(description.restype)
    arguments = [_unpacked(packed, kind) for kind in description.argtypes]
    with builder.if_then(builder.not_(packed.are_plain), likely=False):
        builder.ret(ir.Constant(_INT, REFUSED))
    status, value = context.call_conv.call_function(
        builder, callee, description.restype, description.argtypes, arguments
    )
    if description.restype != types.none:
        context.pack_value(builder, description.restype, value, result)
    builder.ret(builder.zext(status.is_error, _INT))
    return module


class _Packed:
    """The packed values, read one after the other."""

    def __init__(self, context: Any, builder: Any, start: Any) -> None:
        self.context, self.builder = context, builder
        self.are_plain = ir.Constant(ir.IntType(1), 1)
        """Whether all arrays so far are contiguous and of one dimension."""
        self._start, self._offset = start, 0

    def place(self, kind: Any) -> Any:
        """The address of the next value, as one of this kind."""
        offset = ir.Constant(ir.IntType(64), self._offset)
        self._offset += _SLOT
        pointer = self.context.get_data_type(kind).as_pointer()
        return self.builder.bitcast(self.builder.gep(self._start, [offset]), pointer)

    def value(self, kind: Any) -> Any:
        """The next value."""
        return self.context.unpack_value(self.builder, kind, self.place(kind))


def _unpacked(packed: _Packed, kind: Any) -> Any:
    """An argument as numba's functions take it."""
    context, builder = packed.context, packed.builder
    if kind == types.none:
        return context.get_dummy_value()
    if isinstance(kind, types.BaseTuple):
        return context.make_tuple(builder, kind, [_unpacked(packed, each) for each in kind])
    if not isinstance(kind, types.Array):
        return packed.value(kind)
    found = packed.value(types.uintp)

    def field(offset: int, like: Any) -> Any:
        """A field of numpy's object."""
        place = builder.add(found, ir.Constant(found.type, object.__basicsize__ + offset))
        return builder.load(builder.inttoptr(place, like.as_pointer()))

    size = ir.IntType(64)
    data, dimensions = field(_DATA, size), field(_EXTENTS, size)
    is_vector = builder.icmp_unsigned("==", field(_RANK, _INT), ir.Constant(_INT, 1))
    flags = builder.and_(field(_FLAGS, _INT), ir.Constant(_INT, _PLAIN))
    is_plain = builder.icmp_unsigned("==", flags, ir.Constant(_INT, _PLAIN))
    packed.are_plain = builder.and_(packed.are_plain, builder.and_(is_vector, is_plain))
    # The extents of an array without dimensions are nowhere: the field itself can be read instead.
    here = builder.add(found, ir.Constant(found.type, object.__basicsize__ + _EXTENTS))
    extents = builder.select(is_vector, dimensions, here)
    array = context.make_array(kind)(context, builder)
    itemsize = context.get_constant(types.intp, kind.dtype.bitwidth // 8)
    array.meminfo = array.parent = ir.Constant(_BYTE.as_pointer(), None)
    array.data = builder.inttoptr(data, array.data.type)
    array.nitems = builder.load(builder.inttoptr(extents, size.as_pointer()))
    array.itemsize = itemsize
    array.shape = builder.insert_value(array.shape, array.nitems, 0)
    array.strides = builder.insert_value(array.strides, itemsize, 0)
    return array._getvalue()


@cache
def dispatcher_type(kernel: AnyKernel) -> Any:
    """numba's type of a kernel that another one calls."""
    return types.Dispatcher(_dispatcher(kernel))


@cache
def instruction_type(instruction: Generator) -> Any:
    """numba's type of a function that writes instructions."""
    intrinsic = numba.extending.intrinsic(instruction.generator)
    context = cpu_target.typing_context
    context.refresh()
    return context.resolve_value_type(intrinsic)


@cache
def _dispatcher(kernel: AnyKernel) -> Any:
    # Those that were imported since the last kernel was compiled, too.
    while VARIANTS:
        stub, choose = VARIANTS.pop()
        numba.extending.overload(stub, inline="always")(choose)
    return numba.njit(**_OPTIONS)(kernel.function)


def _types(kinds: Iterator[str]) -> tuple[Any, ...]:
    """numba's types of arguments, up to the end of a tuple."""
    found: list[Any] = []
    for kind in kinds:
        if kind == ")":
            break
        if kind == "(":
            found.append(types.Tuple.from_types(_types(kinds)))
        elif kind == NOTHING:
            found.append(types.none)
        elif kind[0] == "[":
            found.append(types.Array(from_dtype(np.dtype(kind[1:])), 1, "C"))
        else:
            found.append(from_dtype(np.dtype(kind)))
    return tuple(found)
