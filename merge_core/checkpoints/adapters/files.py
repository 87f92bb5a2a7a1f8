"""An adapter directory as PEFT saves it: pairs of low-rank factors, and tensors saved in full."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from merge_core.checkpoints.adapters.config import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    AdapterConfig,
    check_patterns,
    read_adapter_config,
)
from merge_core.errors import CheckpointError
from merge_core.tensors.dtypes import MERGEABLE, name_of
from merge_core.tensors.kinds import GATHER, NOT_GATHERED
from merge_core.tensors.safetensors_header import TensorEntry, read_header

PREFIX = "base_model.model."
"""PEFT's wrapper; after it comes the name of a module of the model that was adapted."""

_FACTOR = re.compile(
    r"(?P<module>.+)\.(?P<factor>lora_A|lora_B|lora_embedding_A|lora_embedding_B"
    r"|lora_magnitude_vector)(?P<rest>(\.[^.]+)?(\.weight)?)"
)
_WRAPPED = re.compile(r"\.(base_layer|modules_to_save(\.default)?|original_module)(?=\.)")
_COPY = ".base_layer."
_PICKLE = "adapter_model.bin"


@dataclass(frozen=True, slots=True)
class LoraPair:
    """The factors of one module: it adds scaling * B @ A to the weight."""

    module: str
    """Name of the module in the model that was adapted."""
    a: TensorEntry
    """(r, in); for an embedding (r, tokens)."""
    b: TensorEntry
    """(out, r); for an embedding (width, r), and the transpose of B @ A is added."""
    magnitude: TensorEntry | None
    """DoRA's norm of each row of the result, (out)."""
    scaling: float
    embedding: bool

    @property
    def rank(self) -> int:
        """Rows of A, columns of B."""
        return self.a.shape[0]


@dataclass(frozen=True)
class Adapter:
    """A sound LoRA adapter on this disk. Its weights are not read yet."""

    directory: Path
    config: AdapterConfig
    pairs: tuple[LoraPair, ...]
    """In order of the modules' names."""
    replaced: Mapping[str, TensorEntry]
    """Tensors that stand in place of the base's, by their name there (modules_to_save)."""
    copies: frozenset[str]
    """Those of them that PEFT saved beside the factors of the same module: the base's own, as a
    rule."""


def open_adapter(directory: Path) -> Adapter:
    """Read an adapter's settings and headers.

    Raises:
        CheckpointError: no LoRA adapter, a kind that is refused, a damaged file, a factor without
            its partner, or of another shape than the settings say.
    """
    config = read_adapter_config(directory)
    path = directory / WEIGHTS_NAME
    if not path.is_file():
        raise _no_weights(directory)
    entries = read_header(path)
    factors: dict[str, dict[str, TensorEntry]] = {}
    replaced: dict[str, TensorEntry] = {}
    copies: set[str] = set()
    for name, entry in entries.items():
        if entry.dtype not in MERGEABLE:
            raise _damaged(directory, f"{name[:120]!r} is {name_of(entry.dtype)}, not floats")
        plain = name.removeprefix(PREFIX)
        match = _FACTOR.fullmatch(plain)
        if match:
            of_module = factors.setdefault(match["module"], {})
            if match["factor"] in of_module:
                raise _damaged(directory, f"{name[:120]!r} is there twice, or for two adapters")
            of_module[match["factor"]] = entry
        elif ".lora_" in plain or "trainable_tokens" in plain:
            raise _damaged(directory, f"{name[:120]!r} belongs to a variant that is not supported")
        else:
            target = _WRAPPED.sub("", plain)
            if target in replaced:
                raise _damaged(directory, f"{target[:120]!r} is saved twice")
            replaced[target] = entry
            if _COPY in plain:
                copies.add(target)
    check_patterns(config, factors, directory)
    pairs = tuple(_pair(directory, config, module, factors[module]) for module in sorted(factors))
    if not pairs and not replaced:
        raise _damaged(directory, f"{WEIGHTS_NAME} holds no tensors")
    in_order = MappingProxyType(dict(sorted(replaced.items())))
    return Adapter(directory, config, pairs, in_order, frozenset(copies))


def _pair(
    directory: Path, config: AdapterConfig, module: str, factors: dict[str, TensorEntry]
) -> LoraPair:
    magnitude = factors.pop("lora_magnitude_vector", None)
    embedding = "lora_embedding_A" in factors
    wanted = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A", "lora_B")
    if set(factors) != set(wanted):
        raise _damaged(
            directory, f"module {module[:120]!r} has {', '.join(sorted(factors))} without partner"
        )
    a, b = (factors[name] for name in wanted)
    rank = config.rank(module)
    if not (a.numel and b.numel):
        raise CheckpointError(
            f"module {module[:120]!r} has empty factors, {list(a.shape)} and {list(b.shape)}: saved"
            f" {NOT_GATHERED}",
            where=str(directory),
            mend=GATHER,
        )
    if len(a.shape) != 2 or len(b.shape) != 2:
        raise CheckpointError(
            f"module {module[:120]!r} has factors of shape {list(a.shape)} and {list(b.shape)};"
            " only those of matrices are supported, not of convolutions",
            where=str(directory),
            mend="merge the adapter into its base with PEFT (merge_and_unload), and use the result",
        )
    if a.shape[0] != rank or b.shape[1] != rank:
        raise _damaged(
            directory,
            f"module {module[:120]!r} has factors of rank {a.shape[0]} and {b.shape[1]},"
            f" {CONFIG_NAME} says {rank}",
        )
    if config.use_dora != (magnitude is not None):
        raise _damaged(
            directory,
            f"module {module[:120]!r} has {'no' if config.use_dora else 'a'} magnitude vector,"
            f" use_dora is {str(config.use_dora).lower()}",
        )
    if magnitude is not None and (embedding or magnitude.shape != (b.shape[0],)):
        raise CheckpointError(
            f"module {module[:120]!r} is a DoRA of a kind that is not supported:"
            f" its magnitude vector is {list(magnitude.shape)}",
            where=str(directory),
            mend="merge the adapter into its base with PEFT (merge_and_unload), and use the result",
        )
    return LoraPair(module, a, b, magnitude, config.scaling(module), embedding)


def _no_weights(directory: Path) -> CheckpointError:
    if (directory / _PICKLE).exists():
        return CheckpointError(
            f"{_PICKLE} is a pickle, which can run code when loaded; only safetensors are read",
            where=str(directory),
            mend="if you trust it, load it with PEFT and call save_pretrained(DIRECTORY)",
        )
    return CheckpointError(
        f"the adapter has no {WEIGHTS_NAME}", where=str(directory), mend="fetch it again"
    )


def _damaged(directory: Path, what: str) -> CheckpointError:
    return CheckpointError(
        what,
        where=str(directory),
        mend="fetch the adapter again, or have its publisher save it again with PEFT",
    )
