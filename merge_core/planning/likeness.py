"""Whether the tensors that make one result tensor are of one shape and one class of dtypes.

Checkpoints are compared as wholes before, but slices pair layers of any number, and recipes used by
name, adapters and merged vocabularies make tensors of their own: so each result tensor is checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from merge_core.errors import CompatibilityError
from merge_core.tensors.dtypes import MERGEABLE, name_of
from merge_core.tensors.inputs import TensorInput

Named = tuple[str, TensorInput]
"""The reference of a model and the tensor that it gives."""


def check_alike(output: str, sources: Sequence[Named], where: str) -> None:
    """Refuse tensors that have no mean.

    Args:
        output: name of the result's tensor, for the message.
        sources: what it is made of, the base first where there is one.
        where: YAML path of the models or slice.

    Raises:
        CompatibilityError: two of them differ in shape, or one holds floats and another does not.
    """
    (first, one), *others = sources
    for reference, other in others:
        if other.shape != one.shape:
            raise _unlike(output, where, (first, one), (reference, other), str(list(one.shape)))
        if (other.dtype in MERGEABLE) != (one.dtype in MERGEABLE):
            raise _unlike(output, where, (first, one), (reference, other), name_of(one.dtype))


def named_sources(
    output: str,
    wanted: Sequence[tuple[str, str]],
    tensors: Mapping[str, Mapping[str, TensorInput]],
    where: str,
) -> list[Named]:
    """The tensors that a result tensor is made of.

    Args:
        wanted: reference and tensor name of each, the base first where there is one.
        tensors: of every reference, by name.
        where: YAML path of the models or slice.

    Raises:
        CompatibilityError: one of the models has no such tensor.
    """
    found = [(reference, tensors[reference].get(name)) for reference, name in wanted]
    having = [(reference, tensor) for reference, tensor in found if tensor is not None]
    for (reference, tensor), (_, name) in zip(found, wanted, strict=True):
        if tensor is None:
            other = having[0][0] if having else reference
            raise missing(output, reference, name, other, where)
    return having


def missing(output: str, reference: str, tensor: str, first: str, where: str) -> CompatibilityError:
    """The error for a tensor that one of the models does not have.

    Args:
        tensor: its name in that model.
        first: the reference of a model that has such a tensor.
    """
    return CompatibilityError(
        f"{output} is to be made of {tensor} of '{reference}', which has no such tensor, while"
        f" '{first}' has one: the layers that are merged here are not of one kind",
        where=where,
        mend="merge only layers of one kind with each other: choose ranges that pair them, or stack"
        " them with passthrough",
    )


def _unlike(output: str, where: str, one: Named, other: Named, told: str) -> CompatibilityError:
    (first, ours), (second, theirs) = one, other
    shapes = ours.shape != theirs.shape
    shown = str(list(theirs.shape)) if shapes else name_of(theirs.dtype)
    return CompatibilityError(
        f"{output} is to be made of {ours.name} of '{first}', which is {told}, and {theirs.name} of"
        f" '{second}', which is {shown}: they have no mean",
        where=where,
        mend="merge only layers of one kind with each other: choose ranges that pair them, or stack"
        " them with passthrough"
        if shapes
        else "save both checkpoints with the same kind of numbers, or name the tensor in `exclude`",
    )
