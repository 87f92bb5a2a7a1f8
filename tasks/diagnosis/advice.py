"""What a diagnosis advises, and how sure it is: rules over its numbers, each threshold with its
source.

What `make science` measured on the example models is in `measured`. A threshold that neither it
nor a publication gives is a judgement of this file, and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import combinations
from typing import Literal

from merge_core.operations.diagnosis.weights import DENSITIES, WeightDiagnosis
from merge_core.records import Record
from merge_core.verification.verify import CompatibilityReport
from tasks.diagnosis.curves import Curve, Curves
from tasks.diagnosis.measured import BEST_SCALE_OF_TWO, MEASURED
from tasks.diagnosis.svg import percent

Pair = tuple[int, int]
Related = tuple[float, Pair]
"""A cosine, and whose it is."""
Sure = Literal["sure", "likely", "perhaps"]
"""`sure`: measured on your documents, with an interval, or told by the weights themselves.
`likely`: a rule that holds widely. `perhaps`: worth a trial beside the plain sum, not in its place.
"""

LENGTHS_APART = round(MEASURED["length_ratio"].mean, 1)
"""Longest over shortest task vector: the ratio at which normalising was seen to help. Smaller ones
were not measured."""
ALIKE, OPPOSED = 0.5, -0.1
"""Cosines of task vectors: docs/task-vectors.md."""
CANCELLED = 0.2
"""Share of magnitude that a sum of two loses. Independent normal vectors of one length lose 0.29
(1 - 1/sqrt 2), orthogonal ones are the usual case. A judgement: in `make science` electing signs
did harm at every share of conflicts, from 48 to 95 %, so no measurement supports a threshold."""
KEPT = 0.9
"""Share of squared length left at density 0.2; of a normal distribution 0.65 is."""
FEW_DIRECTIONS = 0.15
"""Effective rank over the possible one. Noise has about 0.9, a LoRA of rank 16 in a matrix of 1024
has 0.016. A judgement; not measured."""
HIGH = 0.1
"""A barrier, in units, that forbids. A judgement between what was measured: none between models of
one base, and 0.66 bits per byte between models of two bases."""

_JUDGED = "a judgement of mergeflow's"
_HERE = "docs/science.md, a million parameters"
_SUM_IS_HARD_TO_BEAT = (
    "arXiv:2511.21437: of six methods on language models only task arithmetic gains"
    " reliably; arXiv:2410.03617: methods differ little at scale; of the experts' gain TIES kept"
    f" {MEASURED['ties_over_task_arithmetic']} less, DARE {MEASURED['dare_over_task_arithmetic']}"
    f" less ({_HERE})"
)


class Advice(Record):
    """One thing to do, or to leave."""

    do: str
    """In the imperative."""
    because: str
    """The numbers that it follows from."""
    sure: Sure
    source: str
    forbids: bool = False
    """Whether it says not to merge."""


def advise(
    names: Sequence[str],
    compatibility: CompatibilityReport,
    weights: WeightDiagnosis | None,
    curves: Curves | None,
    strengths: Mapping[int, float] | None = None,
) -> tuple[Advice, ...]:
    """All advice, the surest first. Where something forbids the merge, only what is sure is said.

    Args:
        names: of the models.
        strengths: the weight that the recipe gives to a model, by its index, where it is a number.
    """
    copies = _copies(compatibility)
    found = [*_of_compatibility(compatibility), *_of_copies(names, copies)]
    useful = set(range(len(names))) - {k for _, k in copies}
    if weights is not None:
        useful -= {k for k, norm in enumerate(weights.profile.overall.norms) if norm == 0.0}
        found += [*_of_lengths(names, weights), *_of_pairs(names, weights, copies)]
        found += [*_of_shapes(names, weights)]
    if curves is not None:
        found += [*_of_lines(names, curves), *_of_scales(names, curves, strengths or {})]
    if any(each.forbids for each in found):
        found = [each for each in found if each.sure == "sure"]
    elif len(useful) > 1:
        found.append(_plain_sum(len(useful), has_base=compatibility.base is not None))
    order = ("sure", "likely", "perhaps")
    return tuple(sorted(found, key=lambda each: (not each.forbids, order.index(each.sure))))


def _of_compatibility(report: CompatibilityReport) -> list[Advice]:
    return [
        Advice(
            do=f"Do not merge before this is mended: {finding.mend or finding.message}",
            because=f"{finding.subject}: {finding.message}",
            sure="sure",
            source=f"mergeflow verify, finding {finding.code}",
            forbids=True,
        )
        for finding in report.errors
    ]


def _copies(report: CompatibilityReport) -> list[Pair]:
    """Models that are the same checkpoint, under another name."""
    digests = [row.digest for row in report.rows if row.role == "model"]
    return [(i, j) for i, j in combinations(range(len(digests)), 2) if digests[i] == digests[j]]


def _of_copies(names: Sequence[str], copies: Sequence[Pair]) -> list[Advice]:
    firsts = {j: i for i, j in reversed(copies)}
    return [
        Advice(
            do=f"Leave {names[j]} out: it is {names[i]} again",
            because="both are the same checkpoint, byte by byte, so it counts twice",
            sure="sure",
            source="their files",
        )
        for j, i in sorted(firsts.items())
    ]


def _of_lengths(names: Sequence[str], weights: WeightDiagnosis) -> list[Advice]:
    norms = weights.profile.overall.norms
    if not any(norms) and not weights.profile.skipped:
        return [
            Advice(
                do="Do not merge: no model differs from the base",
                because="the weights of each are those of the base, and so is every merge of them",
                sure="sure",
                source="the weights",
                forbids=True,
            )
        ]
    found = [
        Advice(
            do=f"Leave {name} out: it adds nothing",
            because="its weights are those of the base",
            sure="sure",
            source="the weights",
        )
        for name, norm in zip(names, norms, strict=True)
        if norm == 0.0
    ]
    known = [(norm, name) for norm, name in zip(norms, names, strict=True) if norm]
    if len(known) > 1:
        (short, least), (long, most) = min(known), max(known)
        if long >= LENGTHS_APART * short:
            found.append(
                Advice(
                    do=f"Normalise: give {most} about {short / long:.2g} times the weight of"
                    f" {least}",
                    because=f"the task vector of {most} is {long / short:.1f} times as long as that"
                    f" of {least}, and outvotes it",
                    sure="likely",
                    source=f"from {LENGTHS_APART:g} times: there normalising was better by"
                    f" {MEASURED['normalising_helps']} bits per byte ({_HERE})",
                )
            )
    return found


def _both(names: Sequence[str], found: Sequence[Related]) -> str:
    """Two models, or however many are of some pair."""
    listed = [names[k] for k in sorted({k for _, pair in found for k in pair})]
    return f"{', '.join(listed[:-1])} and {listed[-1]}"


def _their_cosine(
    names: Sequence[str], found: Sequence[Related], of: int, most: Callable[..., Related]
) -> str:
    cosine, (i, j) = most(found, key=lambda each: each[0])
    if len(found) == 1:
        return f"the task vectors of {names[i]} and {names[j]} have cosine {cosine:+.2f}"
    return (
        f"of {of} pairs of task vectors {len(found)} have such a cosine, {names[i]} and {names[j]}"
        f" the most, {cosine:+.2f}"
    )


def _of_pairs(
    names: Sequence[str], weights: WeightDiagnosis, copies: Collection[Pair]
) -> list[Advice]:
    pairs = list(combinations(range(len(names)), 2))
    overall = weights.profile.overall
    known = [
        (cosine, pair)
        for cosine, pair in zip(overall.cosines, pairs, strict=True)
        if cosine is not None and pair not in copies
    ]
    found = []
    if alike := [each for each in known if each[0] > ALIKE]:
        found.append(
            Advice(
                do=f"Average {_both(names, alike)}, with weights that add up to 1, rather than add"
                " them up",
                because=f"{_their_cosine(names, alike, len(pairs), max)}: a sum counts twice what"
                " they share",
                sure="likely",
                source=f"above {ALIKE:g}; docs/task-vectors.md",
            )
        )
    if opposed := [each for each in known if each[0] < OPPOSED]:
        found.append(
            Advice(
                do=f"Try {_both(names, opposed)} with small weights, or one of them alone",
                because=f"{_their_cosine(names, opposed, len(pairs), min)}: each undoes part of the"
                " other",
                sure="likely",
                source=f"below {OPPOSED:g}; docs/task-vectors.md",
            )
        )
    if pairs and max(weights.clashes.cancelled) >= CANCELLED:
        worst = max(range(len(pairs)), key=lambda place: weights.clashes.cancelled[place])
        i, j = pairs[worst]
        found.append(
            Advice(
                do="Try TIES, which lets signs be elected, beside the plain sum",
                because=f"{percent(overall.conflicts[worst])} of the entries that both"
                f" {names[i]} and {names[j]} changed have opposite signs, and their sum loses"
                f" {percent(weights.clashes.cancelled[worst])} of their magnitude",
                sure="perhaps",
                source=f"from {percent(CANCELLED)}, {_JUDGED}; Yadav et al. 2023, arXiv:2306.01708."
                f" Against it: {_SUM_IS_HARD_TO_BEAT}",
            )
        )
    return found


def _of_shapes(names: Sequence[str], weights: WeightDiagnosis) -> list[Advice]:
    found = []
    place = DENSITIES.index(0.2)
    cheap = [
        name
        for name, kept in zip(names, weights.profile.overall.kept, strict=True)
        if kept[place] >= KEPT
    ]
    if cheap:
        found.append(
            Advice(
                do=f"Try density 0.2 for {', '.join(cheap)}",
                because=f"its largest fifth has at least {percent(KEPT)} of the squared length, so"
                " trimming costs little",
                sure="perhaps",
                source="65 % for a normal distribution; docs/task-vectors.md",
            )
        )
    for index, name in enumerate(names):
        shares = [part.shares[index] for part in weights.ranks]
        known = [share for share in shares if share is not None]
        if known and (mean := sum(known) / len(known)) < FEW_DIRECTIONS:
            found.append(
                Advice(
                    do=f"Try a method that merges directions (tsv_m, iso_c) for {name}, or keep it"
                    " as an adapter (`mergeflow adapter extract`)",
                    because=f"its effective rank is {percent(mean)} of the possible one: it went in"
                    " few directions",
                    sure="perhaps",
                    source=f"below {percent(FEW_DIRECTIONS)}, {_JUDGED}; Roy and Vetterli 2007;"
                    " Gargiulo et al. 2025, arXiv:2412.00081",
                )
            )
    return found


def _of_lines(names: Sequence[str], curves: Curves) -> list[Advice]:
    found = []
    for curve in curves.lines:
        barrier = curve.barrier
        if barrier is None or barrier.low <= 0.0:
            continue
        i, j = curve.models
        worse = _is_worse_than_base(curve, barrier.at)
        forbids = worse and barrier.height >= HIGH
        found.append(
            Advice(
                do=f"Do not merge {names[i]} and {names[j]} by adding weights"
                if forbids
                else f"Expect less of a mean of {names[i]} and {names[j]} than of each alone",
                because=f"between them lies a barrier: at {barrier.at:g} of the way the loss is"
                f" {barrier.height:.2g} units above the line between theirs, surely"
                f" {barrier.low:.2g} or more" + (", and worse than the base" if worse else ""),
                sure="sure" if forbids else "likely",
                source=f"{curves.documents} documents; Frankle et al. 2020, arXiv:1912.05671"
                + (f"; from {HIGH:g} units, {_JUDGED}" if forbids else ""),
                forbids=forbids,
            )
        )
    return found


def _of_scales(
    names: Sequence[str], curves: Curves, strengths: Mapping[int, float]
) -> list[Advice]:
    found = []
    for curve in curves.scales:
        [index] = curve.models
        best, edge = curve.best, edge_of(curve)
        if best is None or edge is None:
            continue
        strength = strengths.get(index)
        because = f"of the scales tried {best.at:g} is the best, and {edge:g} is certainly worse"
        if _is_worse_than_base(curve, edge):
            because += " than it and than the base: there the task vector has left the basin"
        if best.at == 0.0 and edge == min(point.at for point in curve.points if point.at):
            do = f"Leave {names[index]} out: at every scale that was tried it costs"
        elif strength is not None and strength >= edge:
            do = f"Lower the weight of {names[index]}, which is {strength:g}, to about {best.at:g}"
        elif strength is None and edge <= 1.0:
            do = f"Give {names[index]} a weight below {edge:g}"
        else:
            continue
        found.append(
            Advice(
                do=do,
                because=because,
                sure="sure",
                source=f"{curves.documents} documents; Ilharco et al. 2023, arXiv:2212.04089",
            )
        )
    return found


def edge_of(curve: Curve) -> float | None:
    """The smallest scale above the best one that certainly is worse, as all beyond it are."""
    best = curve.best
    if best is None:
        return None
    edge = None
    for point in sorted(curve.points, key=lambda point: -point.at):
        if point.at <= best.at or not (point.below_best or point.change is None):
            break
        edge = point.at
    return edge


def _is_worse_than_base(curve: Curve, at: float) -> bool:
    return any(
        point.at == at and point.high is not None and point.high < 0.0 for point in curve.points
    )


def _plain_sum(models: int, *, has_base: bool) -> Advice:
    start = f"task arithmetic, weights of about {1 / models:.2g}" if has_base else "the plain mean"
    source = _SUM_IS_HARD_TO_BEAT
    if has_base and models == 2:
        source = f"the best scale of a sum of two was {BEST_SCALE_OF_TWO:g} ({_HERE}); {source}"
    return Advice(
        do=f"Start with {start}, and search the weights",
        because="nothing that was measured forbids it",
        sure="likely",
        source=source,
    )
