"""Compiled kernels: written in Python, called as machine code, which is kept between processes.

numba makes the machine code at a kernel's first call for each set of argument types. Every later
process loads it from the disk in milliseconds and imports no numba, which would take most of a
second. Arithmetic is plain IEEE: no fast-math, no contraction into fused multiply-adds, so a kernel
gives the bits that the same expression gives in torch or numpy.

A kernel takes arrays (one dimension, contiguous), numbers, None, and tuples of these; it allocates
nothing. None is a type of its own, so a step that it turns off is not compiled. Arrays are handed
over as the addresses of numpy's own objects, whose layout its C interface fixes: that costs a tenth
of asking each for its address and size. They must be of this machine's byte order, and those that a
kernel writes to must be writable: neither is looked at.
"""

from __future__ import annotations

import ctypes
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from merge_core.jit.calling_convention import NOTHING, REFUSED, Array, Kinds
from merge_core.jit.code_cache import covers, load, read_kept, write_kept

_ODD_ARRAY = "kernels take contiguous, aligned arrays of one dimension"
_FORMATS = {"?": "?7x", "d": "d"} | {
    np.dtype(name).char: f"{code}{8 - np.dtype(name).itemsize}x"
    for name, code in (
        *(("int8", "b"), ("int16", "h"), ("int32", "i"), ("int64", "q")),
        *(("uint8", "B"), ("uint16", "H"), ("uint32", "I"), ("uint64", "Q")),
    )
}
"""How a number is packed, in 8 bytes."""
_SLOT = 8
_ENTRY = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
_address_of, _view = ctypes.addressof, ctypes.c_char.from_buffer
_HEAD = 8
"""Bytes in front of the packed arguments, for the result."""
_lock = threading.Lock()


class _Loaded(NamedTuple):
    """A kernel for one set of argument types."""

    address: int
    call: Callable[[int], int]
    """What is at that address: takes the address of the packed arguments; gives 0, `REFUSED`, or 1
    for an error."""
    pack: Callable[..., None]
    size: int
    """Bytes of the packed arguments, the result's 8 in front of them."""
    kind: str
    """Of the result."""
    result: Callable[[bytearray], tuple[Any, ...]] | None


class StridedArgument(NamedTuple):
    """An integer argument of a bound kernel that grows from call to call."""

    first: int
    stride: int
    """What each call adds to the one before."""


_INTEGER = np.dtype(np.int64).char
_NUMBERS: dict[type, str] = {int: _INTEGER, StridedArgument: _INTEGER, float: "d", bool: "?"}


class BoundCall(NamedTuple):
    """A kernel with its arguments, to be called many times. It keeps the arrays alive."""

    name: str
    address: int
    """Of the kernel's entry."""
    packed: bytearray
    """What the entry takes, the result in front."""
    strided: tuple[tuple[int, StridedArgument], ...]
    """The arguments that grow, each with its offset in `packed`."""
    result: str
    """The kind of what the kernel gives."""
    arguments: tuple[Any, ...]

    @property
    def packed_address(self) -> int:
        """Where the packed arguments are."""
        return _address_of(_view(self.packed))


class Kernel:
    """A function to be called as machine code. Other kernels may call it, too."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.name = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"
        self._loaded: dict[Kinds, _Loaded] = {}

    def __call__(self, *arguments: Any) -> Any:
        """Run without the interpreter's lock.

        Raises:
            TypeError: an argument is of no kind that kernels take.
        """
        loaded, values = self._ready(arguments)
        buffer = bytearray(loaded.size)
        loaded.pack(buffer, _HEAD, *values)
        status = loaded.call(_address_of(_view(buffer)))
        if status == REFUSED:
            raise TypeError(_ODD_ARRAY)
        if status:
            raise RuntimeError(f"the kernel {self.name} has failed")
        return loaded.result(buffer)[0] if loaded.result else None

    def bind(self, *arguments: Any) -> BoundCall:
        """Pack arguments once for many calls, which `merge_core.kernels.cpu.program` makes.

        Raises:
            TypeError: an argument is of no kind that kernels take.
        """
        loaded, values = self._ready(arguments)
        for array in _arrays(arguments):
            if array.ndim != 1 or not array.flags.c_contiguous or not array.flags.aligned:
                raise TypeError(_ODD_ARRAY)
        strided = tuple(
            (_HEAD + _SLOT * place, value)
            for place, value in enumerate(values)
            if type(value) is StridedArgument
        )
        first = [value.first if type(value) is StridedArgument else value for value in values]
        packed = bytearray(loaded.size)
        loaded.pack(packed, _HEAD, *first)
        return BoundCall(self.name, loaded.address, packed, strided, loaded.kind, arguments)

    def _ready(self, arguments: tuple[Any, ...]) -> tuple[_Loaded, list[Any]]:
        """The machine code for arguments of these types, and what is packed of them."""
        found: list[str] = []
        values: list[Any] = []
        _flatten(arguments, found, values)
        kinds = tuple(found)
        return self._loaded.get(kinds) or self._load(kinds), values

    @property
    def _numba_type_(self) -> Any:
        """What numba sees when one kernel calls another."""
        from merge_core.jit.numba_compiler import dispatcher_type

        return dispatcher_type(self)

    def _load(self, kinds: Kinds) -> _Loaded:
        with _lock:
            if kinds in self._loaded:
                return self._loaded[kinds]
            # A kernel of a user's own is compiled anew in every process.
            is_ours = covers(self.function.__module__)
            code = read_kept(self.name, kinds) if is_ours else None
            if code is None:
                from merge_core.jit.numba_compiler import machine_code

                code = machine_code(self, kinds)
                if is_ours:
                    write_kept(self.name, kinds, code)
            layout = struct.Struct("=" + "".join(map(_format, kinds)))
            result = None
            if code.result != NOTHING:
                result = struct.Struct("=" + _FORMATS[code.result]).unpack_from
            address = load(code)
            size = _HEAD + layout.size
            entry = _ENTRY(address)
            loaded = _Loaded(address, entry, layout.pack_into, size, code.result, result)
            self._loaded[kinds] = loaded
            return loaded


class Instruction:
    """A function that writes LLVM instructions into the kernels that call it.

    Args:
        generator: as numba's `intrinsic` takes it.
    """

    def __init__(self, generator: Callable[..., Any]) -> None:
        self.generator = generator

    def __call__(self, *arguments: Any) -> Any:
        raise NotImplementedError("only for compiled code")

    @property
    def _numba_type_(self) -> Any:
        from merge_core.jit.numba_compiler import instruction_type

        return instruction_type(self)


def compiled(function: Callable[..., Any]) -> Kernel:
    """Make a function a kernel."""
    return Kernel(function)


def instruction(generator: Callable[..., Any]) -> Callable[..., Any]:
    """Make a generator of LLVM instructions callable inside kernels."""
    return Instruction(generator)


def _flatten(arguments: tuple[Any, ...], kinds: list[str], values: list[Any]) -> None:
    """Append each argument's kind, and what is packed of it, or the `StridedArgument` itself."""
    for argument in arguments:
        kind = type(argument)
        if kind is np.ndarray:
            values.append(id(argument))
            kinds.append("[" + argument.dtype.char)
        elif kind is tuple:
            kinds.append("(")
            _flatten(argument, kinds, values)
            kinds.append(")")
        elif argument is None:
            kinds.append(NOTHING)
        else:
            values.append(argument)
            kinds.append(_NUMBERS.get(kind) or _number(argument))


def _arrays(arguments: tuple[Any, ...]) -> Iterator[Array]:
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            yield argument
        elif isinstance(argument, tuple):
            yield from _arrays(argument)


def _number(argument: Any) -> str:
    if isinstance(argument, np.generic) and argument.dtype.char in _FORMATS:
        return argument.dtype.char
    raise TypeError(f"kernels take no {type(argument).__name__}")


def _format(kind: str) -> str:
    """How the argument is packed: arrays as the addresses of their objects."""
    return "Q" if kind[0] == "[" else _FORMATS.get(kind, "")
