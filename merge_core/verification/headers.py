"""Compares checkpoints by config and tensor headers alone, so that it also works before a download.

What only the weights can tell (ancestry, NaN) is in `merge_core.verification.verify`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from merge_core.checkpoints.checkpoint import Checkpoint
from merge_core.checkpoints.tensor_names import new_names, of_one_type, prefix_words
from merge_core.configs.rotary import rope_of
from merge_core.configs.sizes import Headers, size_findings
from merge_core.findings import Finding, counted, printable, some
from merge_core.tensors.dtypes import name_of
from merge_core.tensors.kinds import is_packed
from merge_core.tensors.names import group_of
from merge_core.tensors.wrapper_names import unwrapped_names
from merge_core.verification.class_comparison import class_findings, wrapper_findings
from merge_core.verification.header_comparison import compare_headers, exclude_to_fit, fit_together
from merge_core.verification.labels import label_findings
from merge_core.verification.other_settings import MEND, other_settings
from merge_core.verification.tolerance import STRICT, Tolerance
from merge_core.verification.ungathered import ungathered_findings
from merge_core.verification.unmerged import unmerged_findings

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
_NEARLY = re.compile(
    r"(^|_)(act|activation)(_|$)|(^|_)eps(ilon)?$|^attention_bias$|softcap|multiplier"
    r"|_scal(e|ar|ing)(_|$)|scaling_factor|^scale_|experts_per_tok|(^|_)top_?k(_|$)|scoring_func"
    r"|^layer_types$|residual|qk_norm|partial_rotary|logits_scal"
)
"""Config keys that change what equal weights compute, and that a published config may get wrong."""
_NOT_NEARLY = re.compile(r"rope|init|drop|aux|loss|layer_?scale|fp32")
_CONTEXT = ("max_position_embeddings", "n_positions", "sliding_window")


@dataclass(frozen=True)
class CheckpointFacts:
    """A checkpoint's description, from its headers and config alone."""

    name: str
    headers: Headers
    config: Mapping[str, Any]
    copies: frozenset[str] = frozenset()
    """Tensors that hold what another of the same checkpoint holds, in every checkpoint that has
    them: to lack them is no difference (`merge_core.verification.tied_copies`)."""

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
    everyone, findings = _named_alike([*([base] if base else []), *models])
    findings += [
        finding for facts in everyone for finding in check_alone(facts, leads=facts is everyone[0])
    ]
    for facts in everyone[1:]:
        findings += compare_configs(everyone[0], facts, tolerance)
        findings += compare_headers(
            everyone[0].name,
            everyone[0].own_headers,
            facts.name,
            facts.own_headers,
            tolerance=tolerance,
        )
    return in_order(findings)


def _named_alike(
    everyone: Sequence[CheckpointFacts],
) -> tuple[list[CheckpointFacts], list[Finding]]:
    """Facts with the tensors' names of the first of them, and information on what was renamed."""
    read: list[CheckpointFacts] = []
    findings = []
    for facts in everyone:
        own = unwrapped_names(facts.headers)
        headers = {own.get(name, name): it for name, it in facts.headers.items()}
        first = read[0] if read else None
        same = first is not None and of_one_type(first.config, facts.config)
        new = new_names(first.headers, headers) if first and same else {}
        if first and new:
            headers = {new.get(name, name): it for name, it in headers.items()}
            findings.append(
                Finding(
                    severity="info",
                    code="names-mapped",
                    subject=facts.name,
                    message=f"{counted(len(new), 'tensor')} of it are called otherwise than in"
                    f" {first.name}: {prefix_words(new)}",
                )
            )
        read.append(replace(facts, headers=headers) if own or new else facts)
    return read, findings


def in_order(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Errors, then warnings, then information; otherwise as they were found."""
    rank = {"error": 0, "warning": 1, "info": 2}
    return tuple(sorted(findings, key=lambda finding: rank[finding.severity]))


def check_alone(facts: CheckpointFacts, *, leads: bool = False) -> list[Finding]:
    """Quantised weights, settings left over from them, sizes that contradict the config, and a need
    for code of its own."""
    findings = []
    named = quantisation_keys(facts.config)
    packed = [name for name, header in facts.headers.items() if is_packed(name, *header)]
    said = [it.get("quant_method") for it in named.values() if isinstance(it, Mapping)]
    method = next(filter(None, said), None)
    if packed:
        dtype, shape = facts.headers[packed[0]]
        findings.append(
            Finding(
                severity="error",
                code="quantised-weights",
                subject=facts.name,
                message=f"its weights are quantised{f' ({printable(method)})' if method else ''}:"
                f" {counted(len(packed), 'tensor')} of packed or 8-bit values, {packed[0]} is"
                f" {name_of(dtype)} {list(shape)}; they cannot be averaged",
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
    findings += wrapper_findings(facts.name, facts.config)
    findings += ungathered_findings(facts.name, facts.headers)
    findings += unmerged_findings(facts.name, facts.headers)
    if not packed:
        findings += size_findings(facts.name, facts.headers, facts.config, leads=leads)
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


def compare_configs(
    base: CheckpointFacts, model: CheckpointFacts, tolerance: Tolerance = STRICT
) -> list[Finding]:
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
    classes = class_findings(
        (base.name, base.config),
        (model.name, model.config),
        fit=fit_together(base.own_headers, model.own_headers, tolerance),
        heads_excluded=any(
            group_of(name) == "head" and tolerance.is_excluded(name)
            for name in {**base.headers, **model.headers}
        ),
        exclude=exclude_to_fit(base.own_headers, model.own_headers, tolerance),
    )
    if any(finding.severity == "error" for finding in classes):
        return classes
    return [
        *classes,
        *_setting_findings(base, model),
        *other_settings(
            base.name, base.config, model.name, model.config, _compared_keys(base, model)
        ),
        *_position_findings(base, model),
        *label_findings(
            (base.name, base.config, base.headers), (model.name, model.config), tolerance
        ),
    ]


def _setting_findings(base: CheckpointFacts, model: CheckpointFacts) -> list[Finding]:
    ours, theirs = _text_config(model.config), _text_config(base.config)
    findings = []
    nearly = [key for key in theirs if _NEARLY.search(key) and not _NOT_NEARLY.search(key)]
    for keys, severity in ((_COMPUTING, "error"), (nearly, "warning")):
        changed = [
            key
            for key in keys
            if (
                _both_and_differ(key, ours, theirs)
                or (key in nearly and _is_off(key, ours, theirs))
            )
            and not (key == _TIES and base.copies)
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
                    mend=MEND,
                    where=f"config.json: {changed[0]}",
                )
            )
    return findings


def _compared_keys(base: CheckpointFacts, model: CheckpointFacts) -> set[str]:
    """Settings of which something else than `other_settings` speaks."""
    own = {key for each in (base, model) for key in (*each.config, *_text_config(each.config))}
    nearly = {key for key in own if _NEARLY.search(key) and not _NOT_NEARLY.search(key)}
    return {*_COMPUTING, *_CONTEXT, *nearly}


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


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part of a multimodal config, or the config itself."""
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def _both_and_differ(key: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    a, b = ours.get(key), theirs.get(key)
    return a is not None and b is not None and a != b


def _is_off(key: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Whether one of two configs sets a number, and the other says that there is none: null."""
    numbers = [settings.get(key) for settings in (ours, theirs)]
    return key in ours and None in numbers and any(isinstance(it, int | float) for it in numbers)
