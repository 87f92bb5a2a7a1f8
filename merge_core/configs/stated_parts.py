"""Parts that a config says a model has or lacks, and its tensors know: biases, a head, labels.

A class makes what its config says. A part that has no weights starts at random, and weights for
which there is no part are left out, both without a word.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence

from merge_core.configs.size_rules import Settings, named
from merge_core.findings import some
from merge_core.tensors.names import group_of

_TIES = "tie_word_embeddings"
_GENERATORS = ("ForCausalLM", "LMHeadModel")
_CLASSIFIERS = ("ForSequenceClassification", "ForTokenClassification")
_BIASES = {
    "attention_bias": (r"attn|attention", r"\.(self_attn|attention)\.(q|k|v|qkv)_proj\.bias$"),
    "mlp_bias": (r"mlp|feed_forward|experts", r"\.mlp\.(gate|up|down|gate_up)_proj\.bias$"),
}
"""By the setting: what the names of its biases speak of, and names that only such biases have."""


def parts_wrong(names: Collection[str], parts: Sequence[Settings]) -> Iterator[str]:
    """What a config says of a model's parts that the names of its tensors contradict."""
    biases = [name for name in names if name.endswith(("bias", "_b"))]
    for key, (words, own) in _BIASES.items():
        said = {part[key] for part in parts if isinstance(part.get(key), bool)}
        if said == {True} and not any(re.search(words, name) for name in biases):
            yield f"no tensor is such a bias, and it says {key}: true"
        surplus = sorted(name for name in biases if re.search(own, name))
        if said == {False} and surplus:
            yield f"there is {some(surplus)}, and it says {key}: false"


def lacks_head(names: Collection[str], config: Settings, parts: Sequence[Settings]) -> bool:
    """Whether a language model has no head, and a config says that its head is no copy."""
    groups = {group_of(name) for name in names}
    if not _is_a(config, _GENERATORS) or "embeddings" not in groups or "head" in groups:
        return False
    return {part.get(_TIES) for part in (config, *parts)} - {None} == {False}


def labels(part: Settings) -> dict[str, int]:
    """How many labels a classifier has: those with names, else their stated number."""
    if not _is_a(part, _CLASSIFIERS):
        return {}
    names = part.get("id2label")
    stated = {"labels in id2label": len(names)} if isinstance(names, dict) and names else {}
    return stated or named(part, "num_labels")


def _is_a(config: Settings, endings: tuple[str, ...]) -> bool:
    """Whether a config names a class of this kind."""
    classes = config.get("architectures")
    return isinstance(classes, list) and any(
        isinstance(name, str) and name.endswith(endings) for name in classes
    )
