"""Where an adapter's modules are in a checkpoint: names, orientation, shapes, tied weights.

An adapter names modules of a loaded model. Checkpoints mostly name their tensors alike, but some
are saved from an inner model (`h.0...` for `transformer.h.0...`) and multimodal ones are renamed by
transformers as they are loaded. One renaming must fit the whole adapter, or it is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from merge_core.checkpoints.adapters.files import Adapter, LoraPair
from merge_core.checkpoints.adapters.misfits import (
    error_not_in_base,
    error_not_saved,
    error_of_shape,
)
from merge_core.checkpoints.checkpoint import Checkpoint
from merge_core.checkpoints.tensor_names import MULTIMODAL, Renaming, prefixes_of, renamed
from merge_core.errors import CompatibilityError
from merge_core.tensors.dtypes import MERGEABLE, name_of
from merge_core.tensors.names import group_of
from merge_core.tensors.safetensors_header import TensorEntry

TRANSPOSED_MODELS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp")
"""Model types whose layers store weights as (in, out): transformers' Conv1D."""
TRANSPOSED_MODULES = ("c_attn", "q_attn", "c_proj", "c_fc")
"""Which of their modules do."""

_GENERATORS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


@dataclass(frozen=True, slots=True)
class Fit:
    """A pair of factors and the tensor of the checkpoint that it is added to."""

    tensor: str
    pair: LoraPair
    transposed: bool
    """Whether the weight is stored (in, out), so that the transpose of B @ A is added."""


@dataclass(frozen=True)
class Fitted:
    """An adapter's place in a checkpoint."""

    fits: Mapping[str, Fit]
    """By the tensor's name."""
    replaced: Mapping[str, TensorEntry]
    """The adapter's own tensors by the name of those whose place they take."""


def fit(adapter: Adapter, base: Checkpoint) -> Fitted:
    """Find every tensor that an adapter changes.

    Raises:
        CompatibilityError: a tensor is not in the base or of another shape, or it is shared between
            embeddings and head while the adapter changes only one of them.
    """
    wanted = [f"{pair.module}.weight" for pair in adapter.pairs] + list(adapter.replaced)
    names = _named(adapter, base, wanted)
    fits = {}
    replaced = {names[name]: entry for name, entry in adapter.replaced.items() if name in names}
    for pair in adapter.pairs:
        tensor = names.get(f"{pair.module}.weight")
        if tensor is not None:
            shape = replaced[tensor].shape if tensor in replaced else base.tensors[tensor].shape
            transposed = _transposed(adapter, base, pair, tensor, shape)
            fits[tensor] = Fit(tensor, pair, transposed)
    for tensor, entry in replaced.items():
        if entry.shape != base.tensors[tensor].shape:
            raise error_of_shape(adapter, base, tensor, "it is", entry.shape)
    _check_saved(adapter, base, replaced)
    _check_tied(adapter, base, [*fits, *replaced])
    return Fitted(fits, replaced)


def _named(adapter: Adapter, base: Checkpoint, wanted: list[str]) -> dict[str, str]:
    """The base's name of each wanted tensor, by the first renaming under which all are there.

    A head that shares the embeddings' weights is not stored; where the adapter says that it follows
    them, what it holds for the head says nothing new and is left out.
    """
    if adapter.config.tie_weights and ties_head(base):
        wanted = [name for name in wanted if group_of(name) != "head"]
    fewest: tuple[int, list[str]] | None = None
    for renaming in _renamings(wanted, base):
        names = {name: renamed(name, renaming) for name in wanted}
        missing = [name for name, tensor in names.items() if tensor not in base.tensors]
        if not missing and len(set(names.values())) == len(names):
            return names
        if missing and (fewest is None or len(missing) < fewest[0]):
            fewest = len(missing), missing
    assert fewest is not None
    lost = fewest[1]
    if all(group_of(name) == "head" for name in lost) and ties_head(base):
        raise _tied(adapter, base, lost[0])
    raise error_not_in_base(adapter, base, lost, len(wanted))


def _renamings(wanted: list[str], base: Checkpoint) -> Iterator[Renaming]:
    """The ways in which a checkpoint's names may differ from the modules', the likeliest first."""
    yield ()
    for first in prefixes_of(wanted):
        yield ((first, ""),)
    for first in prefixes_of(base.tensors):
        yield (("", first),)
    yield from MULTIMODAL


def _transposed(
    adapter: Adapter, base: Checkpoint, pair: LoraPair, tensor: str, shape: tuple[int, ...]
) -> bool:
    """Whether a layer's weight is stored (in, out): its shape tells, or if square its module.

    The transpose that an embedding gets is not meant.
    """
    if base.tensors[tensor].dtype not in MERGEABLE:
        raise CompatibilityError(
            f"{tensor} of {base.directory} is {name_of(base.tensors[tensor].dtype)}: nothing can be"
            " added to packed or whole numbers",
            where=str(adapter.directory),
            mend="apply it to the unquantised checkpoint of its base",
        )
    made = (pair.b.shape[0], pair.a.shape[1])
    made = made[::-1] if pair.embedding else made
    if shape not in (made, made[::-1]) or (pair.embedding and shape != made):
        raise error_of_shape(adapter, base, tensor, "its factors make", made)
    if pair.embedding or made != made[::-1]:
        return shape != made
    named = pair.module.rpartition(".")[2] in TRANSPOSED_MODULES
    kind = base.config.get("model_type")
    return named and (kind in TRANSPOSED_MODELS or adapter.config.fan_in_fan_out)


def _check_saved(adapter: Adapter, base: Checkpoint, replaced: Mapping[str, TensorEntry]) -> None:
    """Refuse an adapter without the modules that it says it saved in full.

    PEFT lists names that a model may have (`classifier`, `score`); those that the base lacks say
    nothing.
    """
    listed = adapter.config.values.get("modules_to_save")
    if not isinstance(listed, list) or adapter.config.tie_weights:
        return
    for module in listed:
        part = f".{module}."
        if any(part in f".{name}" for name in base.tensors) and not any(
            part in f".{name}" for name in replaced
        ):
            raise error_not_saved(adapter, str(module)[:80])


def _check_tied(adapter: Adapter, base: Checkpoint, changed: list[str]) -> None:
    if adapter.config.tie_weights or not ties_head(base):
        return
    for tensor in changed:
        if group_of(tensor) == "embeddings" and is_vocabulary(base, tensor):
            raise _tied(adapter, base, tensor)


def ties_head(base: Checkpoint) -> bool:
    """Whether the output head is the embedding matrix: config says so and no head is stored."""
    inner = base.config.get("text_config")
    told = base.config.get("tie_word_embeddings")
    if told is None and isinstance(inner, dict):
        told = inner.get("tie_word_embeddings")
    has_head = any(group_of(name) == "head" for name in base.tensors)
    return bool(told if told is not None else _generates(base)) and not has_head


def _generates(base: Checkpoint) -> bool:
    names = base.config.get("architectures")
    return isinstance(names, list) and any(
        isinstance(name, str) and name.endswith(_GENERATORS) for name in names
    )


def is_vocabulary(base: Checkpoint, tensor: str) -> bool:
    inner = base.config.get("text_config")
    sizes = [base.config.get("vocab_size"), inner.get("vocab_size") if inner else None]
    return base.tensors[tensor].shape[0] in sizes


def _tied(adapter: Adapter, base: Checkpoint, tensor: str) -> CompatibilityError:
    changed = [*adapter.replaced, *(f"{pair.module}.weight" for pair in adapter.pairs)]
    both = {"embeddings", "head"} <= {group_of(name) for name in changed}
    how = "changes each of the two apart" if both else "changes only one of the two"
    return CompatibilityError(
        f"{tensor} is one tensor for embeddings and output head in {base.directory}, and the"
        f" adapter {how}; no checkpoint of this base can hold the result",
        where=str(adapter.directory),
        mend="train with ensure_weight_tying in PEFT, or untie the base first (save it with"
        " tie_word_embeddings: false)",
    )
