"""Why an adapter does not fit a checkpoint, and what to do: heads and rows that the base lacks.

Trainers add a head to a base, or resize its vocabulary, and save that beside the LoRA matrices.
Their adapter names the plain base all the same, so "use the base it names" would be no help.
"""

from __future__ import annotations

from collections.abc import Sequence

from merge_core.checkpoints.adapters.files import Adapter
from merge_core.checkpoints.checkpoint import Checkpoint
from merge_core.errors import CompatibilityError
from merge_core.findings import some
from merge_core.tensors.names import group_of

_CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
}
_GENERATING = "AutoModelForCausalLM"


def error_not_in_base(
    adapter: Adapter, base: Checkpoint, lost: Sequence[str], wanted: int
) -> CompatibilityError:
    """The error for tensors that an adapter changes and its base does not have.

    Args:
        lost: their names.
        wanted: how many the adapter changes in all.
    """
    heads = [name for name in lost if name in adapter.replaced and group_of(name) == "head"]
    if heads and len(heads) == len(lost):
        kind = _CLASSES.get(str(adapter.config.values.get("task_type")))
        rows = adapter.replaced[heads[0]].shape[:1]
        labels = f", num_labels={rows[0]}" if kind and rows else ""
        called = kind or "the class that the adapter was trained with"
        return CompatibilityError(
            f"it holds {some(heads)}, a head that {base.directory} does not have",
            where=str(adapter.directory),
            mend=f"give the base that head first: {called}.from_pretrained(BASE{labels})"
            ".save_pretrained(DIR), and apply the adapter to DIR",
        )
    return CompatibilityError(
        f"{len(lost)} of the {wanted} tensors that this adapter changes are not in"
        f" {base.directory}: {some(lost)}",
        where=str(adapter.directory),
        mend=f"apply it to the base that it was trained on{_declared(adapter)}",
    )


def error_of_shape(
    adapter: Adapter, base: Checkpoint, tensor: str, what: str, shape: tuple[int, ...]
) -> CompatibilityError:
    """The error for a tensor whose shape in the base is not what the adapter makes of it.

    Args:
        what: how the adapter's is said to be, e.g. `its factors make`.
        shape: of what the adapter holds for it.
    """
    theirs = base.tensors[tensor].shape
    is_vocabulary = group_of(tensor) in ("embeddings", "head")
    if is_vocabulary and shape[1:] == theirs[1:] and len(shape) == len(theirs):
        return CompatibilityError(
            f"{tensor} has {shape[0]} rows here and {theirs[0]} in {base.directory}: the adapter"
            f" was saved after the embeddings had been resized to {shape[0]} rows",
            where=str(adapter.directory),
            mend=f"resize the base first: model = {_GENERATING}.from_pretrained(BASE);"
            f" model.resize_token_embeddings({shape[0]}); model.save_pretrained(DIR); then apply"
            " the adapter to DIR",
        )
    return CompatibilityError(
        f"{tensor} does not fit: {what} {list(shape)}, in {base.directory} it is {list(theirs)}",
        where=str(adapter.directory),
        mend=f"apply it to the base that it was trained on{_declared(adapter)}",
    )


def error_not_saved(adapter: Adapter, module: str) -> CompatibilityError:
    """The error for a module that was trained in full and is not in the adapter's file."""
    return CompatibilityError(
        f"modules_to_save names {module}, which was trained in full, but the adapter holds no"
        " tensor of it",
        where=str(adapter.directory),
        mend="have its publisher save it again with PEFT; or, if the base's own is to be used,"
        " take the name out of modules_to_save in adapter_config.json",
    )


def _declared(adapter: Adapter) -> str:
    return f" ({adapter.config.base_model})" if adapter.config.base_model else ""
