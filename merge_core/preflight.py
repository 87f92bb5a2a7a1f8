"""Compares checkpoints by config and tensor headers alone, so that it also works before a download.

What only the weights can tell (ancestry, NaN) is in `merge_core.compatibility`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from merge_core.checkpoint import Checkpoint
from merge_core.config_sizes import size_findings
from merge_core.dtypes import DTYPE_NAMES
from merge_core.findings import Finding, counted, printable, some
from merge_core.layers import group_of
from merge_core.rope import rope_of
from merge_core.tensor_kinds import is_packed, kind_of_dtype
from merge_core.tolerance import STRICT, Tolerance

Headers = Mapping[str, tuple[str, tuple[int, ...]]]
"""Dtype code and shape of each tensor, by name."""

_QUANTISATION = ("quantization_config", "compression_config")
_TIES = "tie_word_embeddings"
"""Means nothing where whoever has a head apart has the embeddings in it."""
_COMPUTING = (
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    _TIES,
)
"""Config keys that change what equal weights compute, and that shapes need not reveal."""
_NEARLY = (
    "rms_norm_eps",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "attention_bias",
    "norm_topk_prob",
)
_CONTEXT = ("max_position_embeddings", "n_positions", "sliding_window")


@dataclass(frozen=True)
class CheckpointFacts:
    """What can be known of a checkpoint without its weights."""

    name: str
    headers: Headers
    config: Mapping[str, Any]
    copies: frozenset[str] = frozenset()
    """Tensors that hold what another of the same checkpoint holds, in every checkpoint that has
    them: to lack them is no difference (`merge_core.tied_copies`)."""

    @property
    def own_headers(self) -> Headers:
        """The headers without the copies."""
        if not self.copies:
            return self.headers
        return {name: it for name, it in self.headers.items() if name not in self.copies}


def facts_of(
    name: str, checkpoint: Checkpoint, copies: frozenset[str] = frozenset()
) -> CheckpointFacts:
    """The facts of a checkpoint on this disk."""
    headers = {entry.name: (entry.dtype, entry.shape) for entry in checkpoint.tensors.values()}
    return CheckpointFacts(name, headers, checkpoint.config, copies)


def preflight(
    base: CheckpointFacts | None,
    models: Sequence[CheckpointFacts],
    *,
    tolerance: Tolerance = STRICT,
) -> tuple[Finding, ...]:
    """Everything that headers and configs can say against a merge, errors first.

    Without a base the models are compared with the first of them.
    """
    everyone = [*([base] if base else []), *models]
    findings = [finding for facts in everyone for finding in check_alone(facts)]
    for facts in everyone[1:]:
        findings += compare_configs(everyone[0], facts)
        findings += compare_headers(
            everyone[0].name,
            everyone[0].own_headers,
            facts.name,
            facts.own_headers,
            tolerance=tolerance,
        )
    return in_order(findings)


def in_order(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Errors, then warnings, then information; otherwise as they were found."""
    rank = {"error": 0, "warning": 1, "info": 2}
    return tuple(sorted(findings, key=lambda finding: rank[finding.severity]))


def check_alone(facts: CheckpointFacts) -> list[Finding]:
    """Quantised weights, settings left over from them, sizes that contradict the config, and a need
    for code of its own."""
    findings = []
    named = quantisation_keys(facts.config)
    packed = [name for name, header in facts.headers.items() if is_packed(name, *header)]
    method = next((how for how in map(_method_of, named.values()) if how), None)
    if packed:
        dtype, shape = facts.headers[packed[0]]
        findings.append(
            Finding(
                severity="error",
                code="quantised-weights",
                subject=facts.name,
                message=f"its weights are quantised{f' ({printable(method)})' if method else ''}:"
                f" {counted(len(packed), 'tensor')} of packed or 8-bit values, {packed[0]} is"
                f" {_dtype_name(dtype)} {list(shape)}; they cannot be averaged",
                mend="use the unquantised checkpoint it was made from (its model card names it),"
                " merge, and quantise the result",
                where=packed[0],
            )
        )
    elif named:
        key = next(iter(named))
        findings.append(
            Finding(
                severity="warning",
                code="quantisation-left-over",
                subject=facts.name,
                message=f"config.json has {key}{f' ({printable(method)})' if method else ''}, but"
                " no tensor is packed: the weights are plain, and the key is left over from"
                " training",
                mend=f"remove {key} from config.json, or transformers quantises the model when it"
                " is loaded; the merged config goes without it",
                where=f"config.json: {key}",
            )
        )
    if not packed:
        findings += size_findings(facts.name, facts.headers, facts.config)
    auto_map = facts.config.get("auto_map")
    if isinstance(auto_map, dict) and auto_map:
        findings.append(
            Finding(
                severity="warning",
                code="needs-own-code",
                subject=facts.name,
                message="it needs code of its own to run"
                f" ({some(sorted(map(printable, auto_map)), 2)}), which is never run here, and not"
                " copied unless you ask for it",
                mend="if you read and trust its .py files, `mergeflow merge --copy-code` puts them"
                " beside the merged weights",
                where="config.json: auto_map",
            )
        )
    return findings


def compare_configs(base: CheckpointFacts, model: CheckpointFacts) -> list[Finding]:
    """Architecture (error), settings that change the result (error or warning), rope, context."""
    if not base.config or not model.config:
        without = base.name if not base.config else model.name
        return [
            Finding(
                severity="warning",
                code="config-missing",
                subject=model.name,
                message=f"{without} has no config.json; architecture and rope were not compared",
                mend="put the model's config.json beside its weights",
                where="config.json",
            )
        ]
    ours, theirs = architecture_of(model.config), architecture_of(base.config)
    if ours != theirs:
        return [
            Finding(
                severity="error",
                code="architecture-differs",
                subject=model.name,
                message=f"it is a {ours}, {base.name} is a {theirs}",
                mend="only models of one architecture can be merged: leave this one out, or name"
                " the base it was made from",
                where="config.json: architectures",
            )
        ]
    return [*_setting_findings(base, model), *_position_findings(base, model)]


def compare_headers(
    base_name: str,
    base: Headers,
    name: str,
    model: Headers,
    *,
    tolerance: Tolerance = STRICT,
) -> list[Finding]:
    """Names and shapes that differ (errors) and dtypes that differ (information)."""
    findings = []
    if tolerance.exclude:
        base = {tensor: it for tensor, it in base.items() if not tolerance.is_excluded(tensor)}
        model = {tensor: it for tensor, it in model.items() if not tolerance.is_excluded(tensor)}
    missing = tolerance.without_surplus_layers(base, model)
    extra = tolerance.without_surplus_layers(model, base)
    for tensors, code, what in (
        (missing, "tensors-missing", f"that {base_name} has"),
        (extra, "tensors-extra", f"that {base_name} lacks"),
    ):
        if tensors:
            verb = "lacks" if code == "tensors-missing" else "has"
            findings.append(
                Finding(
                    severity="error",
                    code=code,
                    subject=name,
                    message=f"it {verb} {counted(len(tensors), 'tensor')} {what}: {some(tensors)}",
                    mend=_mend_names(tensors, missing, extra),
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
                else "say in the recipe whose tokens the result has: `tokenizer_source: union` or"
                " `tokenizer_source: base`",
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
        f"{tensor} holds {kind_of_dtype(model[tensor][0])} ({_dtype_name(model[tensor][0])}),"
        f" there {kind_of_dtype(base[tensor][0])} ({_dtype_name(base[tensor][0])})"
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


def _setting_findings(base: CheckpointFacts, model: CheckpointFacts) -> list[Finding]:
    ours, theirs = _text_config(model.config), _text_config(base.config)
    findings = []
    for keys, severity in ((_COMPUTING, "error"), (_NEARLY, "warning")):
        changed = [
            key
            for key in keys
            if _both_and_differ(key, ours, theirs) and not (key == _TIES and base.copies)
        ]
        if changed:
            values = some(
                (
                    f"{key} {printable(ours[key])} instead of {printable(theirs[key])}"
                    for key in changed
                ),
                4,
            )
            findings.append(
                Finding(
                    severity="error" if severity == "error" else "warning",
                    code="settings-differ",
                    subject=model.name,
                    message=f"it computes otherwise than {base.name} with the same weights:"
                    f" {values}",
                    mend="the merged model takes the base's settings; if config.json of one of the"
                    " two was edited, put the original back, else leave the model out",
                    where=f"config.json: {changed[0]}",
                )
            )
    return findings


def _position_findings(base: CheckpointFacts, model: CheckpointFacts) -> list[Finding]:
    ours, theirs = _text_config(model.config), _text_config(base.config)
    findings = []
    rope, base_rope = rope_of(model.config), rope_of(base.config)
    changed = sorted(
        key for key in rope.keys() | base_rope.keys() if rope.get(key) != base_rope.get(key)
    )
    if changed:
        values = some(
            (
                f"{printable(k)} {printable(rope.get(k))} instead of {printable(base_rope.get(k))}"
                for k in changed
            ),
            4,
        )
        findings.append(
            Finding(
                severity="warning",
                code="rope-differs",
                subject=model.name,
                message=f"its rotary positions are not those of {base.name}: {values}",
                mend="the merged model takes the base's; test it on long texts, or leave out the"
                " model that was trained for another context",
                where="config.json: rope_parameters",
            )
        )
    lengths = [key for key in _CONTEXT if _both_and_differ(key, ours, theirs)]
    if lengths:
        values = some(
            f"{key} {printable(ours[key])} instead of {printable(theirs[key])}" for key in lengths
        )
        findings.append(
            Finding(
                severity="warning",
                code="context-differs",
                subject=model.name,
                message=f"its context is not that of {base.name}: {values}",
                mend="the merged model takes the base's; do not rely on the longer of the two"
                " without a test",
                where=f"config.json: {lengths[0]}",
            )
        )
    return findings


def quantisation_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a config says of quantisation, by key (`text_config.quantization_config`)."""
    found: dict[str, Any] = {}
    for start, section in (("", config), ("text_config.", config.get("text_config"))):
        if isinstance(section, Mapping):
            found |= {start + key: section[key] for key in _QUANTISATION if section.get(key)}
    return found


def _method_of(settings: Any) -> object:
    return settings.get("quant_method") if isinstance(settings, Mapping) else None


def _mend_names(tensors: list[str], missing: list[str], extra: list[str]) -> str:
    if all(group_of(tensor) in ("head", "embeddings") for tensor in tensors) and not (
        missing and extra
    ):
        return (
            "one of the two ties its output head or its embeddings, the other has each apart: save"
            " both with the same tie_word_embeddings, or use a fine-tune that kept the base's"
        )
    if missing and extra:
        return (
            "the names differ, so it is another architecture or was saved by another class: save"
            " it again with the class in the base's config, or leave it out"
        )
    return "check that it was made from this base and that no file of it is missing"


def _only_rows_differ(tensor: str, base: Headers, model: Headers) -> bool:
    ours, theirs = model[tensor][1], base[tensor][1]
    is_vocabulary = group_of(tensor) in ("embeddings", "head")
    return is_vocabulary and len(ours) == len(theirs) >= 1 and ours[1:] == theirs[1:]


def architecture_of(config: Mapping[str, Any]) -> str:
    """`LlamaForCausalLM (llama)`, as far as config.json says it."""
    names = config.get("architectures")
    named = some(sorted(map(printable, names))) if isinstance(names, list) and names else None
    kind = config.get("model_type")
    if named and kind:
        return f"{named} ({printable(kind)})"
    return named or (printable(kind) if kind else "unknown")


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part of a multimodal config, or the config itself."""
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def _both_and_differ(key: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    a, b = ours.get(key), theirs.get(key)
    return a is not None and b is not None and a != b


def _main_dtype(headers: Headers) -> str:
    weights: Counter[str] = Counter()
    for dtype, shape in headers.values():
        weights[dtype] += math.prod(shape)
    return _dtype_name(weights.most_common(1)[0][0]) if weights else "nothing"


def _dtype_name(code: str) -> str:
    return DTYPE_NAMES.get(code, code)
