"""A stack of layers computes what the same layers compute when they are rearranged in memory.

Models of many kinds are saved by transformers, stacked, loaded again and compared by their logits.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from merge_core.errors import CompatibilityError
from merge_core.tensors.stacks import main_stack
from tests.support.checkpoints import run_recipe
from tests.support.many_architectures import SETTINGS, make_model
from tests.support.rearranged import logits, rearranged
from tests.support.tiny_llama import described

ORDERS = {
    "first twice": [0, 0, 1, 2, 3],
    "overlap": [0, 1, 2, 1, 2, 3],
    "whole twice": [0, 1, 2, 3, 0, 1, 2, 3],
    "one left out": [0, 1, 3],
    "first left out": [1, 2, 3],
    "another order": [0, 2, 3, 1],
    "end twice": [0, 1, 2, 3, 2, 3],
}
LISTS = ("layer_types", "no_rope_layers", "moe_layers", "attention_layers")
PUBLISHED = (
    *("Qwen2", "Gemma2", "Cohere2", "Olmo3", "Exaone4", "GptOss", "SmolLM3", "Llama4Text"),
    *("Lfm2", "GPTNeo", "Qwen3", "Qwen2Moe"),
)
"""Models whose configs on the Hub do not list the kind of each layer, or did not once."""
NEVER = ("MiniMax", "DiffLlama", "GPT2", "Zamba2", "Gemma3n", "Gemma4")
"""Layers that compute with their own number, share weights, or have a part in the embeddings."""


def runs(order: Sequence[int]) -> list[list[int]]:
    """The layer ranges that make an order."""
    ranges: list[list[int]] = []
    for layer in order:
        if ranges and ranges[-1][1] == layer:
            ranges[-1][1] = layer + 1
        else:
            ranges.append([layer, layer + 1])
    return ranges


def stacked(model: Path, order: Sequence[int], out: Path) -> None:
    slices = [{"sources": [{"model": model.name, "layer_range": layers}]} for layers in runs(order)]
    recipe = {"merge_method": "passthrough", "slices": slices}
    run_recipe(recipe, {model.name: described(model)}, out)


def refused(model: Path, order: Sequence[int], out: Path) -> CompatibilityError | None:
    """The error with which a stack is refused; None once it is made."""
    try:
        stacked(model, order, out)
    except CompatibilityError as error:
        return error
    return None


def saved(name: str, directory: Path, without: Sequence[str] = ()) -> Any:
    """A tiny model, saved, with keys of its config taken out; as transformers loads it again."""
    model = make_model(name)
    model.save_pretrained(directory / name)
    path = directory / name / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({key: config[key] for key in config if key not in without}))
    return type(model).from_pretrained(directory / name).eval()


def agrees(model: Any, name: str, order: Sequence[int], directory: Path) -> bool:
    """Whether the stack computes what it should; False where it is refused with a mend."""
    out = directory / f"{name}-{'-'.join(map(str, order))}"
    refusal = refused(directory / name, order, out)
    if refusal is not None:
        assert refusal.mend
        assert not out.exists()
        return False
    result, report = type(model).from_pretrained(out, output_loading_info=True)
    assert {key: list(value) for key, value in report.items() if value} == {}
    prefix, _ = main_stack(load_file(directory / name / "model.safetensors"), name)
    expected, found = logits(rearranged(model, prefix, order)), logits(result.eval())
    scale = max(1.0, expected.abs().max().item())
    assert (found - expected).abs().max().item() <= 1e-5 * scale
    return True


FAST = ("Llama", "Gemma2", "Qwen3Moe", "Llama4Text", "Jamba", "NemotronH", "ModernBert", "GPTNeo")


@pytest.mark.parametrize("order", ["first twice", "overlap"])
@pytest.mark.parametrize("name", FAST)
def test_a_stack_is_right_or_refused(name: str, order: str, tmp_path: Path) -> None:
    model = saved(name, tmp_path)
    right = agrees(model, name, ORDERS[order], tmp_path)
    assert right or (name, order) in (("Jamba", "first twice"), ("ModernBert", "first twice"))


@pytest.mark.parametrize("name", ["Gemma2", "SmolLM3", "Lfm2"])
def test_a_published_config_gets_the_kinds_that_its_class_had_by_number(
    name: str, tmp_path: Path
) -> None:
    model = saved(name, tmp_path, LISTS)
    assert agrees(model, name, ORDERS["overlap"], tmp_path)


@pytest.mark.parametrize("name", ["MiniMax", "DiffLlama", "GPT2"])
def test_layers_that_compute_with_their_number_keep_it(name: str, tmp_path: Path) -> None:
    model = saved(name, tmp_path)
    assert not agrees(model, name, ORDERS["first twice"], tmp_path)
    assert agrees(model, name, [0, 1, 2, 3], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_every_architecture_is_right_or_refused(name: str, tmp_path: Path) -> None:
    model = saved(name, tmp_path)
    right = [agrees(model, name, order, tmp_path) for order in ORDERS.values()]
    assert any(right) == (name not in NEVER)
    assert agrees(model, name, [0, 1, 2, 3], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_form_is_right_or_refused(name: str, tmp_path: Path) -> None:
    model = saved(name, tmp_path, LISTS)
    assert all(agrees(model, name, order, tmp_path) for order in ORDERS.values())


def test_a_clean_report_does_not_see_swapped_attention_but_the_logits_do(tmp_path: Path) -> None:
    """What the comparison in this file is for."""
    model = saved("Gemma2", tmp_path)
    prefix = "model.layers"
    right = rearranged(model, prefix, [0, 0, 1, 2, 3])
    wrong = rearranged(model, prefix, [0, 0, 1, 2, 3])
    for layer in (1, 2):
        wrong.config.layer_types[layer] = {"sliding_attention": "full_attention"}.get(
            right.config.layer_types[layer], "sliding_attention"
        )
    assert not torch.allclose(logits(wrong), logits(right), atol=1e-3)
