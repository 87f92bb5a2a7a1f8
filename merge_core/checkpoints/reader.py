"""What a reader of an input format offers, and what it finds in a checkpoint directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from merge_core.tensors.inputs import TensorInput
from merge_core.tensors.safetensors_header import KnownHeaders


class Weights(NamedTuple):
    """A checkpoint's weights, of which only headers were read."""

    tensors: Mapping[str, TensorInput]
    """By name, in any order: stored, or made of stored ones as they are read."""
    stem: str
    """What the names of the weight files begin with: `model` in `model-00001-of-00002`."""
    unnamed: tuple[str, ...] = ()
    """Weight files of the same name beside it that its index does not name: left alone."""


class Reader(Protocol):
    """An input format: a module with these functions. `READERS` in `checkpoint.py` lists it."""

    def reads(self, directory: Path) -> bool:
        """Whether a directory, which exists, holds a checkpoint of this format."""

    def read(self, directory: Path, known: KnownHeaders | None) -> Weights:
        """Its weights, checked as far as headers tell.

        Args:
            known: headers that need not be parsed again; new ones are added.

        Raises:
            CheckpointError: they are not as the format says.
        """

    def used(self, directory: Path) -> frozenset[str] | None:
        """Names of the files that hold its weights, or say where they are: what its digest covers.

        None where the names do not tell.

        Raises:
            CheckpointError: the index is damaged.
        """
