"""Tensors that must not be averaged: integers beside weights, buffers, packed words, whatever they
are called; and plain weights whose config says that they are quantised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from flows.cli import program
from merge_core.errors import CompatibilityError
from merge_core.tensors.kinds import is_packed
from merge_core.verification.verify import CompatibilityReport, verify
from tests.support.checkpoints import run_recipe
from tests.support.tiny_llama import base_weights, described, fine_tuned, write_llama

Weights = dict[str, torch.Tensor]
EXTRA = "model.layers.0.extra"
AVERAGE = {"merge_method": "linear", "models": [{"model": "base"}, {"model": "one"}]}


def pair(root: Path, ours: Weights, theirs: Weights, **config: Any) -> CompatibilityReport:
    """A base and a fine-tune with tensors of their own besides; the report about the two."""
    weights = base_weights()
    write_llama(root / "base", weights | ours)
    write_llama(root / "one", fine_tuned(weights, 1) | theirs, config=config)
    return verify(described(root / "base"), [described(root / "one")], scan_weights=False)


def merged(root: Path, recipe: dict[str, Any]) -> Weights:
    sources = {name: described(root / name) for name in ("base", "one")}
    run_recipe(recipe, sources, root / "out", threads=1)
    return load_file(root / "out" / "model.safetensors")


def codes(report: CompatibilityReport) -> list[str]:
    return [finding.code for finding in report.errors]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool])
@pytest.mark.parametrize("floating_first", [True, False])
def test_integers_beside_weights_are_refused_by_the_report_and_by_the_plan(
    tmp_path: Path, dtype: torch.dtype, floating_first: bool
) -> None:
    floating, whole = {EXTRA: torch.full((4,), 0.5)}, {EXTRA: torch.ones(4, dtype=dtype)}
    both = (floating, whole) if floating_first else (whole, floating)
    assert codes(pair(tmp_path, *both)) == ["kinds-differ"]
    with pytest.raises(CompatibilityError, match="they have no mean") as caught:
        merged(tmp_path, AVERAGE)
    assert EXTRA in str(caught.value)
    result = merged(tmp_path, AVERAGE | {"exclude": [EXTRA]})  # what the mend says
    assert torch.equal(result[EXTRA], both[0][EXTRA])


def test_integers_in_a_slice_are_refused_too(tmp_path: Path) -> None:
    pair(tmp_path, {EXTRA: torch.ones(4)}, {EXTRA: torch.ones(4, dtype=torch.int64)})
    sources = [{"model": name, "layer_range": [0, 2]} for name in ("base", "one")]
    recipe = {"merge_method": "linear", "slices": [{"sources": sources}]}
    with pytest.raises(CompatibilityError, match="they have no mean"):
        merged(tmp_path, recipe)


def test_counters_that_differ_are_refused_until_the_recipe_leaves_them_alone(
    tmp_path: Path,
) -> None:
    counter = "model.norm.num_batches_tracked"
    ours, theirs = {counter: torch.tensor(100)}, {counter: torch.tensor(300)}
    assert not codes(pair(tmp_path, ours, theirs))
    with pytest.raises(CompatibilityError, match="cannot be averaged") as caught:
        merged(tmp_path, AVERAGE)
    assert caught.value.mend is not None
    assert f"exclude: [{counter}]" in caught.value.mend
    assert merged(tmp_path, AVERAGE | {"exclude": [counter]})[counter] == 100


@pytest.mark.parametrize("name", ["rotary_emb.inv_freq", "attn.masked_bias"])
def test_a_buffer_in_floating_point_is_taken_over_and_never_scaled(
    tmp_path: Path, name: str
) -> None:
    buffer = f"model.layers.0.{name}"
    ours, theirs = {buffer: torch.tensor([1.0, 0.25])}, {buffer: torch.tensor([1.0, 0.125])}
    assert not codes(pair(tmp_path, ours, theirs))
    recipe = AVERAGE | {"parameters": {"normalize": False, "weight": 1.0}}
    assert torch.equal(merged(tmp_path, recipe)[buffer], ours[buffer])


PACKED = {
    "gptq": {"qweight": torch.int32, "scales": torch.float16, "qzeros": torch.int32},
    "words under a plain name": {"weight": torch.int32, "weight_s": torch.float16},
    "words under any name": {"blob": torch.int32, "blob_scale": torch.float32},
    "codes of 16 bits": {"Qidxs": torch.int16, "SU": torch.float16},
    "words of 64 bits": {"packed": torch.int64, "scale": torch.float16},
    "unsigned words": {"codes": torch.uint32, "step": torch.float32},
    "bytes": {"w": torch.uint8, "s": torch.float32},
}


@pytest.mark.parametrize("layout", sorted(PACKED))
def test_a_matrix_of_integers_is_no_buffer_whatever_it_is_called(
    tmp_path: Path, layout: str
) -> None:
    tensors = {
        f"model.layers.0.self_attn.k_proj.{key}": torch.ones(16, 4).to(dtype)
        for key, dtype in PACKED[layout].items()
    }
    report = pair(tmp_path, tensors, tensors)
    assert codes(report) == ["quantised-weights"] * 2
    assert "they cannot be averaged" in report.errors[0].message


def test_words_in_one_long_row_are_packed_too() -> None:
    assert is_packed("layer.codes", "I32", (1 << 20,))
    assert is_packed("layer.codes", "U16", (1 << 20, 1))


HONEST = {
    "embeddings.position_ids": torch.arange(16).view(1, 16),
    "embeddings.token_type_ids": torch.zeros(1, 16, dtype=torch.int64),
    "attn.relative_position_index": torch.arange(81).view(9, 9),
    "attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.uint8),
    "attn.mask": torch.ones(8, 8, dtype=torch.bool),
    "norm.num_batches_tracked": torch.tensor(7),
    "router.tokens_seen": torch.zeros(64, dtype=torch.int32),
}


def test_honest_buffers_are_taken_over(tmp_path: Path) -> None:
    buffers = {f"model.layers.0.{name}": value for name, value in HONEST.items()}
    assert not codes(pair(tmp_path, buffers, buffers))
    result = merged(tmp_path, AVERAGE)
    assert all(torch.equal(result[name], value) for name, value in buffers.items())


LEFT_OVER = {
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "torch_dtype": "bfloat16",
}


def test_settings_of_a_quantisation_beside_plain_weights_are_left_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = pair(tmp_path, {}, {}, **LEFT_OVER)
    assert report.ok
    (finding,) = [each for each in report.findings if each.code == "quantisation-left-over"]
    assert "no tensor is packed" in finding.message
    assert finding.mend is not None
    assert "remove quantization_config from config.json" in finding.mend
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text("merge_method: linear\nmodels: [{model: ./one}, {model: ./base}]\n")
    assert program.run(["merge", "r.yaml", "out", "--threads", "1"]) == 0
    assert "no tensor is packed" in capsys.readouterr().err
    config = json.loads(Path("out/config.json").read_bytes())
    assert "quantization_config" not in config
    assert config["torch_dtype"] == "float32"


def test_settings_left_over_in_the_language_model_of_a_larger_one_go_too(tmp_path: Path) -> None:
    report = pair(tmp_path, {}, {}, text_config={"quantization_config": {"quant_method": "awq"}})
    assert "quantisation-left-over" in [each.code for each in report.findings]
    alone = {"merge_method": "passthrough", "models": [{"model": "one"}]}
    merged(tmp_path, alone)
    assert json.loads((tmp_path / "out" / "config.json").read_bytes())["text_config"] == {}
