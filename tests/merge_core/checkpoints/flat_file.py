"""An input format as an example: raw values in `weights.flat`, and in `weights.flat.json` where.

A reader to copy for files of another kind. The index says of each tensor its dtype (a code of
`merge_core/tensors/dtypes.py`), its shape, and the byte at which its values begin: little-endian,
row by row. Such values need no more code: the engine reads, merges and checks a `TensorEntry` as it
is. Whatever has to be computed from what is stored is a made tensor: see `scaled_rows`.

Outside of this file such a format takes three lines, which `test_readers` puts in for its tests:

* in `READERS`, `merge_core/checkpoints/checkpoint.py`: the module, before `safetensors_files`;
* in `_WEIGHTS`, `merge_core/files/names.py`: "*.flat";
* in `_INDICES` there: "*.flat.json".
"""

from __future__ import annotations

import math
from pathlib import Path

from merge_core.checkpoints.reader import Weights
from merge_core.errors import CheckpointError
from merge_core.files.bounded_json import read_json
from merge_core.files.untrusted import check_plain
from merge_core.tensors.dtypes import ITEM_SIZES
from merge_core.tensors.safetensors_header import KnownHeaders, TensorEntry

VALUES, INDEX = "weights.flat", "weights.flat.json"


def reads(directory: Path) -> bool:
    """Where there is such an index."""
    return (directory / INDEX).is_file()


def read(directory: Path, known: KnownHeaders | None) -> Weights:
    """The tensors that the index lists. `known` is for formats whose headers are slow to parse.

    The index is a stranger's: it may lead out of the file, or out of the directory by a link.
    """
    path = directory / VALUES
    for file in (path, directory / INDEX):
        check_plain(directory.resolve(), file)
    tensors = {}
    for name, listed in read_json(directory / INDEX, unique_keys=True).items():
        try:
            dtype, shape, offset = str(listed[0]), tuple(map(int, listed[1])), int(listed[2])
            nbytes = math.prod(shape) * ITEM_SIZES[dtype]
        except (LookupError, TypeError, ValueError):
            raise CheckpointError(f"{INDEX}: {name!r} is no tensor", where=str(path)) from None
        if min((0, *shape)) < 0 or not 0 <= offset <= path.stat().st_size - nbytes:
            raise CheckpointError(f"{INDEX} places {name!r} outside of {VALUES}", where=str(path))
        tensors[name] = TensorEntry(name, dtype, shape, path, offset, nbytes)
    return Weights(tensors, stem="model")


def used(directory: Path) -> frozenset[str] | None:
    """Both files: another index would give other weights."""
    return frozenset((VALUES, INDEX))
