"""Whether two tokenizers mean the same: which id stands for which token, how text is split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from merge_core.files.digests import canonical_json
from merge_core.findings import Finding, counted, some
from merge_core.tokenizers.tokenizer import Tokenizer

MEND = (
    "say in the recipe whose tokens the result has: `tokenizer_source: union` keeps every token of"
    " every model, `tokenizer_source: base` (or a model's reference) those of one; or leave this"
    " model out"
)


def compare_tokenizers(
    base_name: str,
    base: Tokenizer | None,
    name: str,
    model: Tokenizer | None,
    *,
    may_differ: bool = False,
) -> list[Finding]:
    """What stands in the way of using the base's tokenizer for a merge with this model.

    `may_differ`: the recipe merges the vocabularies, so every difference is only information; not
    so a tokenizer that is missing, since the model is then taken to have the base's.
    """
    if base is None or model is None:
        return _one_is_missing(base_name, base, name, model)
    if base.ids is not None and model.ids is not None:
        findings = _compare_known(base_name, base, name, model)
    else:
        findings = _compare_bytes(base_name, base, name, model)
    if may_differ:
        return [
            finding.model_copy(update={"severity": "info", "mend": None}) for finding in findings
        ]
    return findings


def _compare_known(base_name: str, base: Tokenizer, name: str, model: Tokenizer) -> list[Finding]:
    assert base.ids is not None
    assert model.ids is not None
    findings = _compare_ids(
        base_name, {**base.beside, **base.ids}, name, {**model.beside, **model.ids}
    )
    if any(finding.severity == "error" for finding in findings):
        return findings
    splitting = _compare_splitting(base, model)
    if splitting:
        findings.append(
            Finding(
                severity="error",
                code="tokenizer-splits-differently",
                subject=name,
                message=f"its tokenizer has the tokens of {base_name} but splits text differently:"
                f" {'; '.join(splitting)}",
                mend=MEND,
                where=model.origin,
            )
        )
    flags = [
        token
        for token in base.added
        if model.added.get(token, base.added[token]) != base.added[token]
    ]
    if flags:
        findings.append(_detail(name, f"added tokens have other flags: {some(map(repr, flags))}"))
    if base.origin == model.origin and base.framing != model.framing:
        findings.append(_framing_finding(base_name, base, name, model))
    return findings


def _framing_finding(base_name: str, base: Tokenizer, name: str, model: Tokenizer) -> Finding:
    if base.framing["post_processor"] == model.framing["post_processor"]:
        return _detail(name, f"its decoder differs from that of {base_name}")
    return Finding(
        severity="warning",
        code="tokenizer-frames-differently",
        subject=name,
        message=f"its tokenizer puts other special tokens around a text than that of {base_name}"
        " (post_processor)",
        mend="the merged model takes the base's; check whether prompts begin with the token that"
        " the models were trained with",
        where="tokenizer.json",
    )


def _compare_ids(
    base_name: str, base: Mapping[str, int], name: str, model: Mapping[str, int]
) -> list[Finding]:
    moved = [token for token in base if token in model and model[token] != base[token]]
    absent = [token for token in base if token not in model]
    new = [token for token in model if token not in base]
    taken = set(base.values())
    clashing = [token for token in new if model[token] in taken]
    if moved or clashing:
        examples = [f"{token!r} is id {model[token]}, there {base[token]}" for token in moved[:2]]
        meaning = {number: token for token, number in base.items()}
        examples += [
            f"id {model[token]} is {token!r}, there {meaning[model[token]]!r}"
            for token in clashing[:2]
        ]
        return [
            Finding(
                severity="error",
                code="vocabulary-differs",
                subject=name,
                message=f"its vocabulary is not that of {base_name}:"
                f" {counted(len(moved), 'token')} with another id, {len(new):,} only here,"
                f" {len(absent):,} only there (for example {'; '.join(examples[:3])})",
                mend=MEND,
                where="tokenizer",
            )
        ]
    findings = []
    if new:
        tokens = some(f"{token!r} (id {model[token]})" for token in new)
        findings.append(
            Finding(
                severity="error",
                code="tokens-added",
                subject=name,
                message=f"it has {counted(len(new), 'token')} that {base_name} lacks: {tokens}",
                mend=f"the merged model would not know them: {MEND}",
                where="tokenizer",
            )
        )
    if absent:
        tokens = some(f"{token!r} (id {base[token]})" for token in absent)
        findings.append(
            Finding(
                severity="warning",
                code="tokens-missing",
                subject=name,
                message=f"it lacks {counted(len(absent), 'token')} that {base_name} has: {tokens};"
                " its embeddings of them were not trained",
                mend="nothing, if prompts do not use these tokens",
                where="tokenizer",
            )
        )
    return findings


def _compare_splitting(base: Tokenizer, model: Tokenizer) -> list[str]:
    differences = []
    if base.merges != model.merges:
        both = zip(base.merges, model.merges, strict=False)
        changed = sum(a != b for a, b in both) + abs(len(base.merges) - len(model.merges))
        at = next(
            (
                rank
                for rank, pair in enumerate(model.merges)
                if (pair,) != base.merges[rank : rank + 1]
            ),
            len(model.merges),
        )
        differences.append(
            f"{changed:,} of {max(len(base.merges), len(model.merges)):,} merges,"
            f" the first at rank {at}"
        )
    if base.scores != model.scores:
        differences.append("the scores of its pieces")
    if base.origin == model.origin:
        for step in base.steps:
            if base.steps[step] != model.steps.get(step):
                differences.append(
                    f"{step} {_brief(model.steps.get(step))}, there {_brief(base.steps[step])}"
                )
    return differences


def _compare_bytes(base_name: str, base: Tokenizer, name: str, model: Tokenizer) -> list[Finding]:
    shared = [file for file in base.files if file in model.files]
    if not shared:
        return [
            Finding(
                severity="warning",
                code="tokenizer-not-comparable",
                subject=name,
                message=f"its tokenizer is in {model.origin}, that of {base_name} in {base.origin};"
                " nothing here can compare the two",
                mend="save both with the same version of transformers (AutoTokenizer, then"
                " save_pretrained), which writes tokenizer.json",
            )
        ]
    if all(base.files[file] == model.files[file] for file in shared):
        # One vocabulary, so what was added to it is all that can differ.
        return _compare_ids(base_name, base.beside, name, model.beside)
    return [
        Finding(
            severity="error",
            code="vocabulary-differs",
            subject=name,
            message=f"its {shared[0]} is not that of {base_name}",
            mend=MEND,
            where=shared[0],
        )
    ]


def _one_is_missing(
    base_name: str, base: Tokenizer | None, name: str, model: Tokenizer | None
) -> list[Finding]:
    if base is None and model is None:
        return []
    without, other = (name, base_name) if model is None else (base_name, name)
    return [
        Finding(
            severity="warning",
            code="tokenizer-missing",
            subject=name,
            message=f"{without} has no tokenizer files, so they cannot be compared with those of"
            f" {other}",
            mend=f"copy the tokenizer files that {without} was trained with into its directory",
        )
    ]


def _brief(value: Any) -> str:
    text = canonical_json(value).decode()
    return text if len(text) <= 80 else text[:77] + "..."


def _detail(name: str, message: str) -> Finding:
    return Finding(severity="info", code="tokenizer-details-differ", subject=name, message=message)
