"""Compares the tensors of two checkpoints by their headers: names, shapes, kinds of numbers.

Every error names what differs in words that its reader knows (a head, a tower, rows), and what to
do that works for exactly these tensors.
"""

from __future__ import annotations

import math
from collections import Counter

from merge_core.configs.sizes import Headers
from merge_core.findings import Finding, counted, some
from merge_core.tensors.dtypes import name_of
from merge_core.tensors.kinds import is_derived_buffer, is_packed, kind_of_dtype
from merge_core.tensors.names import group_of, stack_of
from merge_core.text.plain import plain
from merge_core.verification.left_out import block_of, exclude_line
from merge_core.verification.tolerance import STRICT, Tolerance


def compare_headers(
    base_name: str,
    base: Headers,
    name: str,
    model: Headers,
    *,
    tolerance: Tolerance = STRICT,
) -> list[Finding]:
    """Names and shapes that differ (errors) and dtypes that differ (information)."""
    base, model = _compared(base, tolerance), _compared(model, tolerance)
    missing, extra = _differing(base, model, tolerance)
    findings = _buffer_findings(base_name, base, name, model, [*missing, *extra])
    missing, extra = (
        [tensor for tensor in tensors if not is_derived_buffer(tensor, own[tensor][1])]
        for tensors, own in ((missing, base), (extra, model))
    )
    if _are_names_of_one_tied_tensor(missing, extra, base, model):
        findings.append(_two_names(base_name, name, missing[0], extra[0]))
        missing, extra = [], []
    exclude = _exclude(missing, extra, base, model, tolerance)
    for tensors, verb, what in (
        (missing, "lacks", f"that {base_name} has"),
        (extra, "has", f"that {base_name} lacks"),
    ):
        if tensors:
            block = block_of(tensors)
            called = f", {block}" if block else ""
            findings.append(
                Finding(
                    severity="error",
                    code="tensors-missing" if tensors is missing else "tensors-extra",
                    subject=name,
                    message=f"it {verb} {counted(len(tensors), 'tensor')} {what}{called}:"
                    f" {some(tensors)}{_beginning(tensors, base) if tensors is extra else ''}",
                    mend=_mend_names(base_name, missing, extra, exclude),
                    where=tensors[0],
                )
            )
    findings += _shape_findings(base_name, base, name, model, tolerance.vocabulary)
    findings += _kind_findings(base_name, base, name, model)
    ours, theirs = _main_dtype(model), _main_dtype(base)
    if ours != theirs:
        findings.append(
            Finding(
                severity="info",
                code="dtype-differs",
                subject=name,
                message=f"its weights are {ours}, those of {base_name} {theirs}; arithmetic is"
                " float64 in any case",
            )
        )
    return findings


def fit_together(base: Headers, model: Headers, tolerance: Tolerance = STRICT) -> bool:
    """Whether two models have the same tensors, as far as a recipe merges them."""
    base, model = _compared(base, tolerance), _compared(model, tolerance)
    missing, extra = _differing(base, model, tolerance)
    strange = [base[name][1] for name in missing if not is_derived_buffer(name, base[name][1])]
    strange += [model[name][1] for name in extra if not is_derived_buffer(name, model[name][1])]
    return not strange and all(
        shape == base[name][1] or (tolerance.vocabulary and _only_rows_differ(name, base, model))
        for name, (_, shape) in model.items()
        if name in base
    )


def exclude_to_fit(base: Headers, model: Headers, tolerance: Tolerance = STRICT) -> str | None:
    """What to write into a recipe so that only tensors are merged that both models have."""
    base, model = _compared(base, tolerance), _compared(model, tolerance)
    missing, extra = _differing(base, model, tolerance)
    return _exclude(missing, extra, base, model, tolerance)


def _compared(headers: Headers, tolerance: Tolerance) -> Headers:
    if not tolerance.exclude:
        return headers
    return {tensor: it for tensor, it in headers.items() if not tolerance.is_excluded(tensor)}


def _differing(base: Headers, model: Headers, tolerance: Tolerance) -> tuple[list[str], list[str]]:
    """What a model lacks and what it has more."""
    return (
        tolerance.without_surplus_layers(base, model),
        tolerance.without_surplus_layers(model, base),
    )


def _exclude(
    missing: list[str], extra: list[str], base: Headers, model: Headers, tolerance: Tolerance
) -> str | None:
    """None too where a layer that both have lacks a part: without it the layer is another."""
    both = [name for name in base if name in model]
    layers = {stack_of(name) for name in both}
    for tensors in (missing, extra):
        parts = [name for name in tensors if (it := stack_of(name)) is not None and it in layers]
        if parts and not block_of(tensors):
            return None
    if not missing and not extra:
        return None
    return exclude_line([*missing, *extra], both, already=bool(tolerance.exclude))


def _are_names_of_one_tied_tensor(
    missing: list[str], extra: list[str], base: Headers, model: Headers
) -> bool:
    """Whether one of the two stores a head and no embeddings, and the other the embeddings alone:
    transformers loads both, and takes the one for the other."""
    if len(missing) != 1 or len(extra) != 1 or base[missing[0]][1] != model[extra[0]][1]:
        return False
    return {group_of(missing[0]), group_of(extra[0])} == {"head", "embeddings"}


def _two_names(base_name: str, name: str, missing: str, extra: str) -> Finding:
    return Finding(
        severity="error",
        code="tensors-missing",
        subject=name,
        message=f"it has {extra} and {base_name} has {missing}: where head and embeddings are tied,"
        " these are two names of one tensor",
        mend="if both models are tied, load each with transformers, save it again, and name the"
        " copies: then the names are the same",
        where=missing,
    )


def _buffer_findings(
    base_name: str, base: Headers, name: str, model: Headers, differing: list[str]
) -> list[Finding]:
    """Information on buffers that only one of the two stores."""
    buffers = [
        tensor
        for tensor in differing
        if is_derived_buffer(tensor, (base if tensor in base else model)[tensor][1])
    ]
    if not buffers:
        return []
    return [
        Finding(
            severity="info",
            code="buffers-differ",
            subject=name,
            message=f"only one of it and {base_name} stores {counted(len(buffers), 'buffer')} that"
            f" the model's code computes: {some(buffers)}; the result is stored as {base_name} is",
            where=buffers[0],
        )
    ]


def _mend_names(base_name: str, missing: list[str], extra: list[str], exclude: str | None) -> str:
    tensors = [*missing, *extra]
    kept = f"{exclude} in the recipe"
    if missing:
        kept += f": the result then has {base_name}'s"
        kept += " and none of what only this one has" if extra else " as they are"
    else:
        kept += ": the result then goes without them"
    if all(_is_tied(tensor) for tensor in tensors) and not (missing and extra):
        tied = (
            "one of the two ties its output head or its embeddings, the other has each apart: save"
            " both with the same tie_word_embeddings, or use a fine-tune that kept the base's"
        )
        return f"{tied}; or {kept}" if exclude else tied
    if exclude and block_of(missing or extra) and (not missing or not extra or block_of(extra)):
        return f"if only the rest is to be merged, {kept}"
    if exclude:
        return f"if only the rest is to be merged, {kept}; if not, save it again in full"
    if missing and extra:
        return (
            "the names differ, so it is another architecture or was saved by another class or"
            f" version: load and save both it and {base_name} with one class and one version of"
            " transformers, or leave it out"
        )
    return "check that it was made from this base and that no file of it is missing"


def _beginning(extra: list[str], base: Headers) -> str:
    """In words, the first word of several names if it is one that no other model uses."""
    first = {name.partition(".")[0] for name in extra}
    if len(first) != 1 or len(extra) == 1 or block_of(extra):
        return ""
    (word,) = first
    return (
        ""
        if any(name.startswith(f"{word}.") for name in base)
        else (f"; all of these begin with {plain(word, 60)}.")
    )


def _is_tied(tensor: str) -> bool:
    return group_of(tensor) == "embeddings" or block_of([tensor]) == "an output head"


def _shape_findings(
    base_name: str, base: Headers, name: str, model: Headers, vocabulary_may_differ: bool
) -> list[Finding]:
    different = [
        tensor
        for tensor, (_, shape) in model.items()
        if tensor in base and shape != base[tensor][1]
    ]
    rows = [tensor for tensor in different if _only_rows_differ(tensor, base, model)]
    others = [tensor for tensor in different if tensor not in rows]
    findings = []
    if rows:
        first = rows[0]
        findings.append(
            Finding(
                severity="info" if vocabulary_may_differ else "error",
                code="vocabulary-size-differs",
                subject=name,
                message=f"{first} has {model[first][1][0]:,} rows, in {base_name}"
                f" {base[first][1][0]:,}: the vocabularies have different sizes",
                mend=None
                if vocabulary_may_differ
                else _mend_rows(base_name, base[first][1][0], name, model[first][1][0]),
                where=first,
            )
        )
    if others:
        examples = some(
            f"{tensor} {list(model[tensor][1])} instead of {list(base[tensor][1])}"
            for tensor in others
        )
        findings.append(
            Finding(
                severity="error",
                code="shapes-differ",
                subject=name,
                message=f"{counted(len(others), 'tensor')} of another shape than in {base_name}:"
                f" {examples}",
                mend="the models differ in size: use checkpoints made from the same base",
                where=others[0],
            )
        )
    return findings


def _mend_rows(base_name: str, base_rows: int, name: str, rows: int) -> str:
    few, most = (name, base_rows) if rows < base_rows else (base_name, rows)
    return (
        "if both have the same tokens, and the further rows are padding, resize"
        f" {few} to {most} rows first: model = AutoModelForCausalLM.from_pretrained({few!r});"
        f" model.resize_token_embeddings({most}); model.save_pretrained(DIR); then name DIR. If"
        " their tokens differ, say in the recipe whose tokens the result has: `tokenizer_source:"
        " union` or `tokenizer_source: base`"
    )


def _kind_findings(base_name: str, base: Headers, name: str, model: Headers) -> list[Finding]:
    """Tensors that hold numbers of another kind than the base's: integers beside weights."""
    mixed = [
        tensor
        for tensor, (dtype, _) in model.items()
        if tensor in base
        and kind_of_dtype(dtype) != kind_of_dtype(base[tensor][0])
        and not any(is_packed(tensor, *header[tensor]) for header in (model, base))
    ]
    if not mixed:
        return []
    examples = some(
        f"{tensor} holds {kind_of_dtype(model[tensor][0])} ({name_of(model[tensor][0])}),"
        f" there {kind_of_dtype(base[tensor][0])} ({name_of(base[tensor][0])})"
        for tensor in mixed
    )
    return [
        Finding(
            severity="error",
            code="kinds-differ",
            subject=name,
            message=f"{counted(len(mixed), 'tensor')} of another kind of numbers than in"
            f" {base_name}: {examples}",
            mend="these cannot be averaged: save the checkpoint again as it was trained, or keep"
            f" the base's by `exclude: [{mixed[0]}]` in the recipe",
            where=mixed[0],
        )
    ]


def _main_dtype(headers: Headers) -> str:
    weights: Counter[str] = Counter()
    for dtype, shape in headers.values():
        weights[dtype] += math.prod(shape)
    return name_of(weights.most_common(1)[0][0]) if weights else "nothing"


def _only_rows_differ(tensor: str, base: Headers, model: Headers) -> bool:
    ours, theirs = model[tensor][1], base[tensor][1]
    is_vocabulary = group_of(tensor) in ("embeddings", "head")
    return is_vocabulary and len(ours) == len(theirs) >= 1 and ours[1:] == theirs[1:]
