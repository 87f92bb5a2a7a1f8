"""Settings of two configs that differ, in every part of them, but for those that compute nothing.

What a setting does is its class's own affair, and each release brings new ones. So the list here is
of settings without effect on what weights compute; all others are told.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from merge_core.findings import Finding, printable, some

MEND = (
    "the merged model takes the base's settings; if config.json of one of the two was edited, put"
    " the original back, else leave the model out"
)
_HEADS = ("num_attention_heads", "num_key_value_heads", "head_dim")
"""Settings by which equal weights are cut into heads, in a tower too."""
_IDLE = re.compile(
    r"^_|version|cache|drop|init|_std$|token|architectures|dtype|label|vocab|loss|aux|coef|jitter"
    r"|^output_|return|gradient|checkpoint|torchscript|quant|bnb|unsloth|tuning_task|^task|problem"
    r"|feed_forward_chunk|chunk_size_feed|train|^tie_|pruned|prefix|path|name|kernel|parallel_size"
    r"|^(mamba_)?chunk_size$|^num_beam|^(temperature|top_k|top_p|typical_p|do_sample)$|penalty"
    r"|^(max|min)_length$|early_stopping|ngram|flash|sdpa|implementation|fp32|fp16|bf16|bfloat16"
    r"|seed|freeze|lora|peft|mask_(time|feature)|ctc|summary|hub|library|language|^tags$|model_type"
    r"|hash|commit|remove_invalid|output_past|_date$|author|license"
)
_APART = re.compile(
    r"rope_(theta|scaling|parameters|local_base_freq|type)|rotary_(pct|dim|emb|base)|partial_rotary"
    r"|auto_map|id2label|label2id|quant|generation|task_specific"
)
"""Parts that are compared elsewhere, or say nothing of the model."""
_ABSENT = "absent"
_BOTH_WAYS = re.compile(r"bidirectional|causal|^is_decoder$")
"""What a config may leave out that says no."""


def other_settings(
    base_name: str,
    base: Mapping[str, Any],
    name: str,
    config: Mapping[str, Any],
    told: Collection[str],
) -> list[Finding]:
    """An error for a tower of other heads, a warning of all other settings that differ.

    Args:
        told: settings of the language model that are compared elsewhere.
    """
    start = "text_config." if isinstance(config.get("text_config"), dict) else ""
    elsewhere = {start + key for key in told}
    changed = [each for each in _changed(base, config, "") if each[0] not in elsewhere]
    heads = [each for each in changed if each[0].rpartition(".")[2] in _HEADS]
    others = [each for each in changed if each not in heads]
    findings = []
    if heads:
        findings.append(
            Finding(
                severity="error",
                code="settings-differ",
                subject=name,
                message=f"it computes otherwise than {base_name} with the same weights:"
                f" {_values(heads)}",
                mend=MEND,
                where=f"config.json: {heads[0][0]}",
            )
        )
    if others:
        findings.append(
            Finding(
                severity="warning",
                code="settings-differ",
                subject=name,
                message=f"its config.json says otherwise than that of {base_name}:"
                f" {_values(others)}; the same weights may compute something else",
                mend=MEND,
                where=f"config.json: {others[0][0]}",
            )
        )
    return findings


def _values(changed: list[tuple[str, Any, Any]]) -> str:
    return some(
        (
            f"{key} {printable(ours)} instead of {printable(theirs)}"
            for key, ours, theirs in changed
        ),
        6,
    )


def _changed(
    base: Mapping[str, Any], config: Mapping[str, Any], start: str
) -> Iterator[tuple[str, Any, Any]]:
    """Each setting that differs, by its path, with both values."""
    for key in dict.fromkeys((*base, *config)):
        if not isinstance(key, str):
            continue
        theirs, ours = base.get(key, _ABSENT), config.get(key, _ABSENT)
        if isinstance(theirs, dict) and isinstance(ours, dict):
            if not _APART.search(key):
                yield from _changed(theirs, ours, f"{start}{key}.")
        elif _differ(key, theirs, ours) and not _IDLE.search(key) and not _APART.search(key):
            yield f"{start}{key}", ours, theirs


def _differ(key: str, theirs: Any, ours: Any) -> bool:
    if _BOTH_WAYS.search(key):
        return any(each is True for each in (theirs, ours)) and theirs != ours
    # A setting that only one of the two has may be the class's own value, written out.
    return _ABSENT not in (theirs, ours) and theirs != ours
