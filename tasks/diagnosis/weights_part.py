"""The part of the page about task vectors: lengths, conflicts and ranks by layer, pairs."""

from __future__ import annotations

from merge_core.operations.diagnosis.ranks import MOST_LAYERS, MOST_ROWS
from merge_core.operations.diagnosis.weights import WeightDiagnosis
from merge_core.operations.profile import Section
from merge_core.tensors.names import stack_of
from tasks.diagnosis.diagnosis import Diagnosis
from tasks.diagnosis.svg import Series, line_chart, percent, text

_MOST_PAIRS = 6
"""Lines in one picture; the table has all pairs."""


def weights_part(found: Diagnosis) -> str:
    """Pictures by layer, and tables; of a recipe without a base, why there are none."""
    weights = found.weights
    if weights is None:
        return f"<section><h2>Task vectors</h2><p>{text(found.no_weights)}</p></section>"
    pictures = [_lengths(found, weights), _ranks(found, weights)]
    if weights.profile.pairs:
        pictures[1:1] = [_conflicts(found, weights)]
    return (
        "<section><h2>Task vectors</h2><p>What fine-tuning changed: each model less the base.</p>"
        f'{_models(found, weights)}{_pairs(found, weights)}<div class="pair">'
        f"{''.join(pictures)}</div>{_groups(found, weights)}{_notes(weights)}</section>"
    )


def _models(found: Diagnosis, weights: WeightDiagnosis) -> str:
    overall = weights.profile.overall
    ranks = [
        [share for share in column if share is not None]
        for column in zip(*(part.shares for part in weights.ranks), strict=True)
    ] or [[] for _ in found.models]
    rows = "".join(
        f"<tr><td>{text(name)}</td><td>{overall.norms[k]:.4g}</td>"
        f"<td>{percent(overall.relative_norms[k])}</td><td>{percent(overall.changed[k])}</td>"
        + "".join(f"<td>{percent(kept)}</td>" for kept in overall.kept[k])
        + f"<td>{f'{percent(sum(ranks[k]) / len(ranks[k]))}' if ranks[k] else '-'}</td></tr>"
        for k, name in enumerate(found.names)
    )
    kept = "".join(f"<th>kept at {density:g}</th>" for density in weights.profile.densities)
    return (
        '<div class="scroll"><table><tr><th>model</th><th>length</th><th>of the base\'s</th>'
        f"<th>entries changed</th>{kept}<th>effective rank</th></tr>{rows}</table></div>"
        '<p class="quiet">Kept at: share of the squared length that is left when only that share of'
        " the largest entries stays. Effective rank: of the largest possible, the mean over layers."
        "</p>"
    )


def _pairs(found: Diagnosis, weights: WeightDiagnosis) -> str:
    profile, clashes = weights.profile, weights.clashes
    if not profile.pairs:
        return ""
    rows = "".join(
        f"<tr><td>{text(found.names[i])}, {text(found.names[j])}</td>"
        f"<td>{'-' if cosine is None else f'{cosine:+.3f}'}</td><td>{percent(conflict)}</td>"
        f"<td>{percent(opposed)}</td><td>{percent(lost)}</td></tr>"
        for (i, j), cosine, conflict, opposed, lost in zip(
            profile.pairs,
            profile.overall.cosines,
            profile.overall.conflicts,
            clashes.opposed,
            clashes.cancelled,
            strict=True,
        )
    )
    return (
        '<div class="scroll"><table><tr><th>pair</th><th>cosine</th>'
        "<th>entries of opposite signs</th><th>magnitude in them</th>"
        f"<th>magnitude a sum loses</th></tr>{rows}</table></div>"
        '<p class="quiet">Independent task vectors of one length have cosine 0 and half of their'
        " entries in conflict, and their sum loses 29 % of the magnitude. An election of signs as"
        f" TIES holds it would drop {percent(clashes.outvoted)} here.</p>"
    )


def _groups(found: Diagnosis, weights: WeightDiagnosis) -> str:
    """Embeddings, attention, mlp and so on: lengths, and the conflicts of any two models."""
    heads = [f"length of {name}, of the base's" for name in found.names]
    heads += [
        f"cosine {found.names[i]}, {found.names[j]}" for i, j in weights.profile.pairs[:_MOST_PAIRS]
    ]
    rows = "".join(
        f"<tr><td>{text(group.name)}</td><td>{group.parameters:,}</td>"
        + "".join(f"<td>{percent(norm)}</td>" for norm in group.relative_norms)
        + "".join(
            f"<td>{'-' if cosine is None else f'{cosine:+.3f}'}</td>"
            for cosine in group.cosines[:_MOST_PAIRS]
        )
        + (f"<td>{percent(group.any_conflict)}</td>" if weights.profile.pairs else "")
        + "</tr>"
        for group in weights.profile.groups
    )
    head = "".join(f"<th>{text(each)}</th>" for each in heads)
    last = "<th>entries in conflict</th>" if weights.profile.pairs else ""
    return (
        "<h3>By kind of tensor</h3>"
        f'<div class="scroll"><table><tr><th>part</th><th>parameters</th>{head}{last}</tr>'
        f"{rows}</table></div>"
    )


def _lengths(found: Diagnosis, weights: WeightDiagnosis) -> str:
    sections = _sections(weights)
    series = [
        Series(name, [section.relative_norms[k] for section in sections], colour=k)
        for k, name in enumerate(found.names)
    ]
    return line_chart(
        "Length of the task vectors, of the base's",
        [_label(section.name) for section in sections],
        series,
        axis="layer",
        told=percent,
    )


def _conflicts(found: Diagnosis, weights: WeightDiagnosis) -> str:
    layers = weights.layer_clashes or (weights.clashes,)
    series = [
        Series(
            f"{found.names[i]}, {found.names[j]}", [c.cancelled[k] for c in layers], colour=k + 2
        )
        for k, (i, j) in list(enumerate(weights.profile.pairs))[:_MOST_PAIRS]
    ]
    return line_chart(
        "Magnitude that a sum of two loses to opposite signs (dashed: independent vectors)",
        [_label(layer.name) for layer in layers],
        series,
        axis="layer",
        told=percent,
        ruler=1.0 - 0.5**0.5,
    )


def _ranks(found: Diagnosis, weights: WeightDiagnosis) -> str:
    if not weights.ranks:
        return ""
    series = [
        Series(name, [part.shares[k] for part in weights.ranks], colour=k)
        for k, name in enumerate(found.names)
    ]
    return line_chart(
        "Effective rank of the task vectors, of the possible",
        [_label(part.name) for part in weights.ranks],
        series,
        axis="layer",
        told=percent,
    )


def _notes(weights: WeightDiagnosis) -> str:
    sampled = [matrix for matrix in weights.matrices if matrix.rows < matrix.of_rows]
    rows = f" Of {len(sampled)} matrices {MOST_ROWS} rows stand for all." if sampled else ""
    skipped = weights.profile.skipped
    left = f" Without a task vector: {', '.join(map(text, skipped))}." if skipped else ""
    return (
        '<p class="quiet">Effective rank: the exponential of the entropy of the singular values'
        f" (Roy and Vetterli 2007), of at most {MOST_LAYERS} layers.{rows}{left}</p>"
    )


def _sections(weights: WeightDiagnosis) -> list[Section]:
    profile = weights.profile
    ends = {section.name: section for section in profile.groups}
    if not profile.layers:
        return list(profile.groups)
    first = [ends["embeddings"]] if "embeddings" in ends else []
    last = [ends["head"]] if "head" in ends else []
    return [*first, *profile.layers, *last]


def _label(name: str) -> str:
    stack = stack_of(name)
    return str(stack[1]) if stack else {"embeddings": "emb."}.get(name, name)[:12]
