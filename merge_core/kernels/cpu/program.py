"""What is done with each block of a tensor: reads, kernels and writes, without the interpreter.

A merge of 1.24 B parameters has some ten thousand blocks, and each of them a few reads, kernel
calls and writes. Called one by one, they cost the interpreter's own time between them, and its
lock: a worker that comes back from one waits for the other workers' turns, and longer, the more of
them there are. So the steps are written down once, for a block, and a compiled loop takes them for
block after block, with offsets that grow. The interpreter is only asked where a step does not go as
planned: it does that one step again in its own way, which says what is wrong, or mends it.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir

from merge_core.jit.calling_convention import NOTHING, Array
from merge_core.jit.kernel import BoundCall, Kernel, StridedArgument, compiled, instruction
from merge_core.jit.lazy_numba import types

_READ, _WRITE, _CALL, _CHECK = range(4)
"""Kinds of steps. The first two are also the places of the system's calls and of their times."""
_CLOCK = 2
_KIND, _TARGET, _ADDRESS, _SIZE_OR_SLOT, _FIRST, _STRIDE, _FIELDS = range(7)
"""The fields of a step, and how many they are."""

_BYTE, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_POINTER = _BYTE.as_pointer()

_BOOLEAN = np.dtype(bool).char

OnFailure = Callable[[int], None]
"""What to do where a step does not go as planned; takes the index of the block's first element."""


class Step(NamedTuple):
    """One thing that is done with a block.

    fields: what the compiled loop reads. For a transfer its kind, a file's descriptor, an address,
        a number of bytes, the position in the file for the first block, and by how much it grows.
        For a kernel's call its kind, the entry's address, that of the packed arguments, and of the
        one among them that grows or 0, its value for the first block, and by how much it grows.
    keeps: what must stay alive.
    """

    fields: tuple[int, int, int, int, int, int]
    on_failure: OnFailure | None
    """None for a kernel that has no result."""
    keeps: Array | BoundCall


def reading(descriptor: int, array: Array, position: int, on_failure: OnFailure) -> Step:
    """What fills an array from a file; the next block is read from where this one ends.

    on_failure: called where the system gives an error, or less than was asked for.

    Raises:
        TypeError: the array is not contiguous, or cannot be written to.
    """
    if not array.flags.writeable:
        raise TypeError("what is read into cannot be written to")
    return _transferring(_READ, descriptor, array, position, on_failure)


def writing(descriptor: int, array: Array, position: int, on_failure: OnFailure) -> Step:
    """What writes an array to a file, as `reading` reads."""
    return _transferring(_WRITE, descriptor, array, position, on_failure)


def _transferring(
    kind: int, descriptor: int, array: Array, position: int, on_failure: OnFailure
) -> Step:
    if not array.flags.c_contiguous:
        raise TypeError("what is read or written is not contiguous")
    address = array.__array_interface__["data"][0]
    fields = (kind, descriptor, address, array.nbytes, position, array.nbytes)
    return Step(fields, on_failure, array)


def calling(kernel: Kernel, *arguments: Any, on_failure: OnFailure | None = None) -> Step:
    """What calls a kernel, one of whose arguments may be a `StridedArgument`.

    on_failure: called where the kernel gives False; kernels that give nothing have none.

    Raises:
        TypeError: the arguments are none for this kernel, or its result is another.
    """
    bound = kernel.bind(*arguments)
    if bound.result != (NOTHING if on_failure is None else _BOOLEAN):
        raise TypeError(f"the result of {bound.name} is left out, or not the one that is expected")
    if len(bound.strided) > 1:
        raise TypeError("only one argument can be strided")
    slot, strided = 0, StridedArgument(0, 0)
    if bound.strided:
        offset, strided = bound.strided[0]
        slot = bound.packed_address + offset
    kind = _CALL if on_failure is None else _CHECK
    fields = (kind, bound.address, bound.packed_address, slot, *strided)
    return Step(fields, on_failure, bound)


class Program:
    """Steps that are taken for each of many blocks.

    The files that it reads and writes must stay open, and the same, while it runs.

    Args:
        start: index of the first block's first element.
        count: elements of every block.
    """

    def __init__(self, steps: Sequence[Step], start: int, count: int) -> None:
        self._steps = steps
        self._start, self._count = start, count
        fields = [field for step in steps for field in step.fields]
        self._fields = np.array(fields, np.int64)
        self._spent = np.zeros(2, np.int64)

    @property
    def seconds_reading(self) -> float:
        """What all read calls took so far."""
        return float(self._spent[_READ]) * 1e-9

    @property
    def seconds_writing(self) -> float:
        """The same for writes."""
        return float(self._spent[_WRITE]) * 1e-9

    def run(self, first: int, last: int) -> None:
        """Take the steps for the blocks from number `first` to `last`, without the latter.

        Raises:
            RuntimeError: a kernel failed.
            Exception: what a step's `on_failure` raises.
        """
        count = len(self._steps)
        place, end = first * count, last * count
        while place < end:
            place = _take_steps(self._fields, _system_calls(), count, place, end, self._spent)
            if place < 0:
                bound = self._steps[~place % count].keeps
                assert isinstance(bound, BoundCall)
                raise RuntimeError(f"the kernel {bound.name} has failed")
            if place < end:
                block, number = divmod(place, count)
                on_failure = self._steps[number].on_failure
                assert on_failure is not None
                on_failure(self._start + block * self._count)
                place += 1


def run_once(steps: Sequence[Step], start: int) -> None:
    """Run some steps once, for the block that begins at an index.

    Raises:
        Exception: as for `Program.run`.
    """
    Program(steps, start, 0).run(0, 1)


@cache
def _system_calls() -> Array:
    """The addresses of the C library's functions that the loop calls."""
    library = ctypes.CDLL(None)
    functions = (library.pread, library.pwrite, library.clock_gettime)
    addresses = [ctypes.cast(function, ctypes.c_void_p).value for function in functions]
    return np.array(addresses, np.int64)


@instruction
def _transfer(
    typing_context: Any, function: Any, descriptor: Any, address: Any, size: Any, position: Any
) -> Any:
    """Call `pread` or `pwrite`."""
    kind = ir.FunctionType(_I64, [_I32, _POINTER, _I64, _I64])

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function, descriptor, address, size, position = arguments
        called = builder.inttoptr(function, kind.as_pointer())
        place = builder.inttoptr(address, _POINTER)
        return builder.call(called, [builder.trunc(descriptor, _I32), place, size, position])

    return types.int64(*[types.int64] * 5), generate


@instruction
def _enter(typing_context: Any, entry: Any, packed: Any) -> Any:
    """Call a kernel's entry."""
    kind = ir.FunctionType(_I32, [_POINTER])

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        entry, packed = arguments
        called = builder.inttoptr(entry, kind.as_pointer())
        return builder.call(called, [builder.inttoptr(packed, _POINTER)])

    return types.int32(types.int64, types.int64), generate


@instruction
def _nanoseconds(typing_context: Any, function: Any) -> Any:
    """Call `clock_gettime` for the monotonic clock."""
    time_of_day = ir.ArrayType(_I64, 2)
    kind = ir.FunctionType(_I32, [_I32, time_of_day.as_pointer()])

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        with builder.goto_entry_block():
            place = builder.alloca(time_of_day)
        called = builder.inttoptr(arguments[0], kind.as_pointer())
        builder.call(called, [ir.Constant(_I32, time.CLOCK_MONOTONIC), place])
        now = builder.load(place)
        seconds, rest = (builder.extract_value(now, number) for number in range(2))
        return builder.add(builder.mul(seconds, ir.Constant(_I64, 10**9)), rest)

    return types.int64(types.int64), generate


@instruction
def _put(typing_context: Any, address: Any, value: Any) -> Any:
    """Store an integer at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, value = arguments
        builder.store(value, builder.inttoptr(address, _I64.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@instruction
def _is_true(typing_context: Any, address: Any) -> Any:
    """Whether the truth value stored at an address is True."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte = builder.load(builder.inttoptr(arguments[0], _POINTER))
        return builder.icmp_unsigned("!=", byte, ir.Constant(_BYTE, 0))

    return types.boolean(types.int64), generate


@compiled
def _take_steps(
    fields: Array, system: Array, count: int, place: int, end: int, spent: Array
) -> int:
    """Take steps from `place`, counted over all blocks, to `end` or to where one goes wrong.

    Returns:
        Where that is, inverted for a kernel that failed.
    """
    while place < end:
        block, at = place // count, place % count * _FIELDS
        kind, target, address = fields[at + _KIND], fields[at + _TARGET], fields[at + _ADDRESS]
        size = slot = fields[at + _SIZE_OR_SLOT]
        grown = fields[at + _FIRST] + block * fields[at + _STRIDE]
        if kind >= _CALL:
            if slot != 0:
                _put(slot, grown)
            if _enter(target, address) != 0:
                return ~place
            if kind == _CHECK and not _is_true(address):
                return place
        else:
            began = _nanoseconds(system[_CLOCK])
            done = _transfer(system[kind], target, address, size, grown)
            spent[kind] += _nanoseconds(system[_CLOCK]) - began
            if done != size:
                return place
        place += 1
    return place
