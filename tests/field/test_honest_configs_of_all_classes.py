"""The config of a model as transformers makes it never contradicts the model's own tensors.

Models are as large as published ones, and on the meta device, where they cost nothing. Classes keep
rows for padding, give some layers heads of their own size, or have parts with whole configs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from merge_core.configs.sizes import Headers, size_findings

_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64"}


def classes() -> Iterator[tuple[str, str]]:
    from transformers.models.auto import modeling_auto

    for names in (
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    ):
        yield from names.items()


def contradictions(model_type: str, class_name: str) -> list[str] | None:
    """What is found against a class's own config; None where it cannot be made without more."""
    import transformers

    try:
        config = transformers.AutoConfig.for_model(model_type)
        with torch.device("meta"):
            model: Any = getattr(transformers, class_name)(config)
    except Exception:  # a library that is missing, or a default that the class itself refuses
        return None
    headers = {
        name: (_DTYPES.get(tensor.dtype, "F32"), tuple(tensor.shape))
        for name, tensor in model.state_dict().items()
        if name not in (getattr(model, "all_tied_weights_keys", None) or {})
    }
    found = size_findings("a", headers, json.loads(model.config.to_json_string()))
    return [finding.message for finding in found]


@pytest.mark.slow
def test_no_class_of_transformers_is_refused() -> None:
    told = {name: contradictions(model_type, name) for model_type, name in classes()}
    assert {name: found for name, found in told.items() if found} == {}
    assert sum(found is not None for found in told.values()) > 150


def test_a_model_without_a_vocabulary_is_told_and_not_refused() -> None:
    """The rules know where language models state their sizes; this is none."""
    width = 8
    headers: Headers = {"decoder.layers.0.mlp.fc1.weight": ("F32", (4 * width, width))}
    config = {"hidden_size": width, "intermediate_size": 16, "num_hidden_layers": 1}
    (finding,) = size_findings("a", headers, config)
    assert finding.severity == "warning"
    (finding,) = size_findings("a", headers, {**config, "vocab_size": 100})
    assert finding.severity == "error"


@pytest.mark.parametrize(
    ("config", "is_wrong"),
    [
        ({"hidden_size": 8, "flow_config": {"hidden_size": 4}}, False),
        ({"hidden_size": 4, "flow_config": {"hidden_size": 8}}, False),
        ({"text_config": {"hidden_size": 8}, "hidden_size": 4}, False),
        ({"text_config": {"hidden_size": 4}, "hidden_size": 8}, True),
    ],
)
def test_only_a_part_about_the_text_model_speaks_for_what_surrounds_it(
    config: dict[str, Any], is_wrong: bool
) -> None:
    headers: Headers = {"model.embed_tokens.weight": ("F32", (16, 8))}
    assert bool(size_findings("a", headers, {"vocab_size": 16, **config})) is is_wrong
