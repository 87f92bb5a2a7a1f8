"""Stacks of models that have an encoder, a decoder or one of the two alone.

The first layer of T5 holds what all layers read, its decoder has as many layers as the encoder
where nothing is said, and a decoder that is saved alone keeps the config of both.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from merge_core.errors import CompatibilityError
from tests.support.checkpoints import run_recipe
from tests.support.rearranged import rearranged
from tests.support.tiny_llama import described

_T5 = {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_heads": 4, "vocab_size": 48}
_BART = {"d_model": 16, "vocab_size": 48, "max_position_embeddings": 32}
_SIDE = {"layers": 4, "attention_heads": 4, "ffn_dim": 24}


def t5() -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    return T5ForConditionalGeneration(
        T5Config(**_T5, num_layers=4, num_decoder_layers=4, decoder_start_token_id=0)
    )


def lone_decoder() -> Any:
    from transformers import BartConfig, BartForCausalLM

    sides = {f"{side}_{key}": it for side in ("encoder", "decoder") for key, it in _SIDE.items()}
    config = BartConfig(**_BART, **sides | {"encoder_layers": 2}, is_encoder_decoder=False)
    config.is_decoder = True
    return BartForCausalLM(config)


def saved(model: Any, directory: Path, *without: str) -> Any:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(directory)
    path = directory / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({key: config[key] for key in config if key not in without}))
    return type(model).from_pretrained(directory).eval()


def stacked(model: Path, ranges: Sequence[Sequence[int]], side: str | None, out: Path) -> None:
    slices = [{"sources": [{"model": "x", "layer_range": list(layers)}]} for layers in ranges]
    recipe: dict[str, object] = {"merge_method": "passthrough", "slices": slices}
    if side is not None:
        modules = {side: {"slices": slices}, "default": {"models": [{"model": "x"}]}}
        recipe = {"merge_method": "passthrough", "modules": modules}
    run_recipe(recipe, {"x": described(model)}, out)


def says(model: Any, **more: torch.Tensor) -> torch.Tensor:
    tokens = torch.arange(3, 15)[None]
    with torch.no_grad():
        return model(input_ids=tokens, use_cache=False, **more).logits


@pytest.mark.parametrize("without", [(), ("num_decoder_layers",)])
@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_one_side_is_stacked_and_the_other_keeps_its_layers(
    side: str, without: Sequence[str], tmp_path: Path
) -> None:
    model = saved(t5(), tmp_path / "x", *without)
    stacked(tmp_path / "x", [[0, 3], [1, 4]], side, tmp_path / "out")
    result, report = type(model).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert {key: list(value) for key, value in report.items() if value} == {}
    expected = rearranged(model, f"{side}.block", [0, 1, 2, 1, 2, 3])
    start = {"decoder_input_ids": torch.arange(5, 12)[None]}
    torch.testing.assert_close(says(result.eval(), **start), says(expected, **start))


@pytest.mark.parametrize("ranges", [[[0, 1], [0, 4]], [[1, 4]]])
def test_a_first_layer_that_holds_what_all_read_stays_the_first_and_only_one(
    ranges: Sequence[Sequence[int]], tmp_path: Path
) -> None:
    saved(t5(), tmp_path / "x")
    with pytest.raises(CompatibilityError, match=r"SelfAttention\.relative_attention_bias"):
        stacked(tmp_path / "x", ranges, "decoder", tmp_path / "out")


def test_a_decoder_alone_is_counted_by_its_own_number(tmp_path: Path) -> None:
    model = saved(lone_decoder(), tmp_path / "x")
    stacked(tmp_path / "x", [[0, 3], [1, 4]], None, tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["decoder_layers"], config["encoder_layers"]) == (6, 2)
    result = type(model).from_pretrained(tmp_path / "out").eval()
    expected = rearranged(model, "model.decoder.layers", [0, 1, 2, 1, 2, 3])
    torch.testing.assert_close(says(result), says(expected))
