"""What measured ancestry and model cards mean for a merge, in sentences."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from merge_core.checkpoints.checkpoint import Checkpoint
from merge_core.checkpoints.model_card import declared_bases, is_hub_id, names_checkpoint
from merge_core.files.names import holds_weights
from merge_core.findings import Finding, counted, some
from merge_core.records import SourceCheckpoint
from merge_core.tensors.block_reader import BlockReader
from merge_core.verification.ancestry import FAR_ABOVE, FAR_BELOW, Ancestry, same_weights

DWARFS = 3.0
"""Ratio of two task vectors' lengths from which the longer one drowns the shorter."""


@dataclass(frozen=True)
class Subject:
    """A checkpoint under examination that could be opened."""

    source: SourceCheckpoint
    checkpoint: Checkpoint

    @property
    def name(self) -> str:
        """Its reference."""
        return self.source.reference

    @property
    def weight_files(self) -> frozenset[str]:
        """sha256 of its weight files, whatever they are called."""
        adapter = self.source.adapter
        files = (*self.source.files, *(adapter.files if adapter else ()))
        return frozenset(file.sha256 for file in files if holds_weights(file.name))


def ancestry_findings(
    first: Subject,
    other: Subject,
    has_base: bool,
    measured: Ancestry | None,
    *,
    may_be_unrelated: bool = False,
) -> list[Finding]:
    """An error for a stranger (a warning, if it may be one), a warning for a distant relative."""
    if measured is None or measured.kinship in ("near", "identical"):
        return []
    numbers = (
        f"the cosine of its weights and those of {first.name} is {measured.median_cosine:.3f}"
        f" (median of {counted(measured.tensors, 'tensor')}) and they are"
        f" {measured.relative_norm:.2f} times the norm of {first.name} apart"
    )
    expected = (
        f"; for fine-tunes the cosine is above {FAR_BELOW} and the distance below {FAR_ABOVE}"
    )
    if measured.kinship == "far":
        return [
            Finding(
                severity="warning",
                code="far-from-base" if has_base else "far-from-first",
                subject=other.name,
                message=f"it is far from {first.name}: {numbers}{expected}",
                mend="check that this is its base; if it was trained on very much data, merge it"
                " with a small weight and compare",
            )
        ]
    declared = declared_bases(other.checkpoint.directory)
    hint = f" (its model card names {some(declared)})" if declared else ""
    what = (
        f"it is not a fine-tune of {first.name}"
        if has_base
        else f"it and {first.name} come from different training runs"
    )
    if may_be_unrelated:
        return [
            Finding(
                severity="warning",
                code="unrelated-weights",
                subject=other.name,
                message=f"{what}: {numbers}{expected}",
                mend="test the result well: layers of different training runs do not understand"
                " each other without further training",
            )
        ]
    mend = (
        f"name the checkpoint it was fine-tuned from as base_model{hint}, or leave it out"
        if has_base
        else f"merge only checkpoints of one training run; leave one of the two out{hint}"
    )
    return [
        Finding(
            severity="error",
            code="unrelated-weights",
            subject=other.name,
            message=f"{what}: {numbers}{expected}",
            mend=f"{mend}; if you know better, say `allow_unrelated: true` in the recipe",
        )
    ]


def declaration_findings(base: Subject, model: Subject, measured: Ancestry | None) -> list[Finding]:
    """The model card's claim, which only matters as far as the measurement leaves a doubt."""
    if measured is not None and measured.kinship == "unrelated":
        return []
    if model.source.adapter and model.source.path == base.source.path:
        return []
    declared = declared_bases(model.checkpoint.directory)
    directory = base.checkpoint.directory
    if any(names_checkpoint(name, base.name, directory) for name in declared):
        return []
    confirmed = measured is not None and measured.kinship in ("near", "identical")
    if not declared:
        return [
            Finding(
                severity="info" if confirmed else "warning",
                code="declared-base-unknown",
                subject=model.name,
                message="its model card names no base_model"
                + ("; measured, it descends from this base" if confirmed else ""),
                mend=None if confirmed else "ask its publisher which checkpoint it was made from",
                where="README.md",
            )
        ]
    told = confirmed and not is_hub_id(base.name)
    return [
        Finding(
            severity="info" if told else "warning",
            code="declared-base-differs",
            subject=model.name,
            message=f"its model card names {some(declared)} as its base, the recipe {base.name}"
            + ("; measured, it descends from this base" if confirmed else ""),
            mend="name the declared base as base_model, unless the two are the same weights",
            where="README.md",
        )
    ]


def twin_findings(
    subjects: Sequence[Subject],
    ancestries: Mapping[str, Ancestry],
    has_base: bool,
    reader: BlockReader,
) -> list[Finding]:
    """A warning for each checkpoint that holds exactly the weights of an earlier one."""
    findings = []
    twins: set[str] = set()
    for one, other in itertools.combinations(subjects, 2):
        if other.name in twins or not _are_twins(one, other, subjects[0], ancestries, reader):
            continue
        twins.add(other.name)
        is_base = has_base and one is subjects[0]
        findings.append(
            Finding(
                severity="warning",
                code="identical-to-base" if is_base else "identical-models",
                subject=other.name,
                message=f"its weights are exactly those of {one.name}"
                + ("; its task vector is zero" if is_base else "; they count twice"),
                mend="leave it out, or name the fine-tune that was meant"
                if is_base
                else "leave one of the two out, or say so by its weight",
            )
        )
    return findings


def length_findings(ancestries: Mapping[str, Ancestry]) -> list[Finding]:
    """A warning for each task vector that is much longer than the shortest."""
    lengths = {
        name: ancestry.relative_norm
        for name, ancestry in ancestries.items()
        if ancestry.kinship in ("near", "far")
    }
    if not lengths:
        return []
    short = min(lengths, key=lambda name: lengths[name])
    return [
        Finding(
            severity="warning",
            code="task-vector-dwarfs-another",
            subject=name,
            message=f"its task vector is {length / lengths[short]:.1f} times as long as that of"
            f" {short} ({length:.4f} against {lengths[short]:.4f} of the base's norm) and will"
            " drown it",
            mend=f"give it less weight, about {lengths[short] / length:.2f} of the other's, or"
            " compare several ratios",
        )
        for name, length in lengths.items()
        if length > DWARFS * lengths[short]
    ]


def _are_twins(
    one: Subject,
    other: Subject,
    first: Subject,
    ancestries: Mapping[str, Ancestry],
    reader: BlockReader,
) -> bool:
    if one.weight_files and one.weight_files == other.weight_files:
        return True
    theirs = ancestries.get(other.name)
    if theirs is None:
        return False
    if one is first:
        may_be = theirs.kinship == "identical"
    else:
        ours = ancestries.get(one.name)
        may_be = (
            ours is not None
            and math.isclose(ours.relative_norm, theirs.relative_norm, rel_tol=1e-12)
            and math.isclose(ours.cosine, theirs.cosine, rel_tol=1e-12)
        )
    return may_be and same_weights(one.checkpoint, other.checkpoint, reader)
