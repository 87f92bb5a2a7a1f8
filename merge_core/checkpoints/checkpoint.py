"""A checkpoint directory as a whole: its weights, by the reader of their format, and its config.

Only headers are read here. Weights stay on disk until the engine streams them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from merge_core.checkpoints import safetensors_files
from merge_core.checkpoints.reader import Reader
from merge_core.checkpoints.safetensors_files import MODEL_STEM
from merge_core.errors import CheckpointError
from merge_core.files.bounded_json import read_json
from merge_core.runtime.garbage import collection_paused
from merge_core.tensors.dtypes import name_of
from merge_core.tensors.inputs import TensorInput
from merge_core.tensors.safetensors_header import KnownHeaders
from merge_core.tensors.wrapper_names import unwrapped_names, words_taken

READERS: tuple[Reader, ...] = (safetensors_files,)
"""The first that reads a directory is taken; the last says what is wrong with any other."""


@dataclass(frozen=True)
class Checkpoint:
    """A sound checkpoint on this disk, or one made from others as it is read."""

    directory: Path
    tensors: Mapping[str, TensorInput]
    """Every tensor by name: in name order on disk, in the result's order where it is made."""
    config: Mapping[str, Any]
    """config.json as it is; empty when there is none."""
    stem: str = MODEL_STEM
    """What the names of its weight files begin with: `model` in `model-00001-of-00002`."""
    unnamed: tuple[str, ...] = ()
    """Weight files of the same name beside it that its index does not name: left alone."""
    wrapper: str = ""
    """Words of a training wrapper that its files have in the tensors' names, as `_orig_mod.`."""
    parted: bool = False
    """An adapter made two tensors of head and embeddings, which the config may call one."""

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(entry.numel for entry in self.tensors.values())

    @property
    def dtype(self) -> str:
        """torch's name of the dtype that holds most weights."""
        weights: Counter[str] = Counter()
        for entry in self.tensors.values():
            weights[entry.dtype] += entry.numel
        return name_of(weights.most_common(1)[0][0]) if weights else "float32"


def reader_of(directory: Path) -> Reader:
    """The reader of a directory's format."""
    return next(reader for reader in READERS if reader.reads(directory))


@collection_paused()
def open_checkpoint(directory: Path, known: KnownHeaders | None = None) -> Checkpoint:
    """Read a checkpoint's headers by the reader of its format, and check what it finds.

    Args:
        known: headers of the checkpoints that were opened with it, which need not be parsed again.

    Raises:
        CheckpointError: no such directory, no tensors, a config that is not JSON, or what the
            reader refuses (`merge_core.checkpoints.safetensors_files.read`).
    """
    if not directory.is_dir():
        raise CheckpointError("there is no such directory", where=str(directory))
    tensors, stem, unnamed = reader_of(directory).read(directory, known)
    if not tensors:
        raise CheckpointError("the checkpoint holds no tensors", where=str(directory))
    config_path = directory / "config.json"
    config = read_json(config_path) if config_path.exists() else {}
    new = unwrapped_names(tensors)
    tensors = {new[name]: it.called(new[name]) for name, it in tensors.items()} if new else tensors
    names = sorted(tensors)
    return Checkpoint(
        directory,
        MappingProxyType(dict(zip(names, map(tensors.__getitem__, names), strict=True))),
        MappingProxyType(config),
        stem,
        unnamed,
        words_taken(new) if new else "",
    )
