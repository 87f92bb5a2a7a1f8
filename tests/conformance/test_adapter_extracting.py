"""Extracted adapters hold the best approximation of their rank, and say what they do not hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from merge_core.checkpoints.sources import open_source
from merge_core.errors import CompatibilityError, RecipeError
from merge_core.operations.adapters.extract import ExtractOptions, extract_adapter
from tests.conformance.test_adapters import MODULES, Q, applied, dense, read_all
from tests.support.adapters import random_factors, write_adapter
from tests.support.checkpoints import write_checkpoint
from tests.support.tiny_llama import base_weights, fine_tuned, write_llama


def test_every_matrix_is_cut_by_its_svd_and_the_error_is_told(tmp_path: Path) -> None:
    weights = base_weights()
    tuned = fine_tuned(weights, 1)
    base, expert = write_llama(tmp_path / "base", weights), write_llama(tmp_path / "ft", tuned)
    manifest = extract_adapter(base, expert, tmp_path / "lora", ExtractOptions(rank=3))
    view = open_source(applied(base, tmp_path / "lora"))
    assert {row.module for row in manifest.modules} == {*MODULES, "lm_head"}
    lost = total = 0.0
    for name, before in weights.items():
        delta = tuned[name].double() - before.double()
        found = read_all(view.tensors[name]) - before.double()
        total += float(delta.norm()) ** 2
        rows = [row for row in manifest.modules if f"{row.module}.weight" == name]
        if not rows:
            assert float(found.norm()) == 0.0
            lost += float(delta.norm()) ** 2
            continue
        u, s, vh = torch.linalg.svd(delta)
        best = u[:, :3] * s[:3] @ vh[:3]
        assert float((found - best).norm()) <= 1e-6 * float(best.norm())
        assert rows[0].error == pytest.approx(float(s[3:].norm() / s.norm()), rel=1e-6)
        assert rows[0].norm == pytest.approx(float(s.norm()), rel=1e-9)
        lost += float(s[3:].norm()) ** 2
    assert manifest.norm == pytest.approx(total**0.5, rel=1e-9)
    assert manifest.error == pytest.approx((lost / total) ** 0.5, rel=1e-6)
    recorded = json.loads((tmp_path / "lora" / "mergeflow_adapter.json").read_text())
    assert recorded["error"] == manifest.error
    assert [row["module"] for row in recorded["modules"]] == [r.module for r in manifest.modules]


def test_what_a_lora_cannot_hold_is_reported(tmp_path: Path) -> None:
    weights = base_weights()
    base = write_llama(tmp_path / "base", weights)
    expert = write_llama(tmp_path / "ft", fine_tuned(weights, 1))
    manifest = extract_adapter(base, expert, tmp_path / "lora", ExtractOptions())
    left = {row.tensor: row for row in manifest.rest}
    assert set(left) == {name for name in weights if "norm" in name or "embed" in name}
    assert not any(row.saved for row in left.values())
    assert f"{len(left)} changed tensors are not in the adapter" in manifest.warnings[0]


def test_saving_the_rest_in_full_leaves_nothing_out_at_full_rank(tmp_path: Path) -> None:
    weights = base_weights()
    tuned = fine_tuned(weights, 1)
    base, expert = write_llama(tmp_path / "base", weights), write_llama(tmp_path / "ft", tuned)
    options = ExtractOptions(rank=100, save_rest=True)
    manifest = extract_adapter(base, expert, tmp_path / "lora", options)
    assert manifest.error < 1e-12
    assert manifest.warnings == ()
    view = open_source(applied(base, tmp_path / "lora"))
    for name, wanted in tuned.items():
        assert float((read_all(view.tensors[name]) - wanted.double()).abs().max()) < 1e-9
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert config["r"] == 16, "the rank is capped by the shapes"
    assert set(config["modules_to_save"]) == {
        name.removesuffix(".weight") for name in weights if "norm" in name or "embed" in name
    }


def test_a_module_with_a_changed_bias_is_saved_whole(tmp_path: Path) -> None:
    weights = {
        "model.layers.0.q_proj.weight": torch.randn(8, 6),
        "model.layers.0.q_proj.bias": torch.randn(8),
        "model.layers.0.up_proj.weight": torch.randn(9, 6),
        "model.layers.0.up_proj.bias": torch.randn(9),
    }
    tuned = fine_tuned(weights, 1, scale=0.01)
    tuned["model.layers.0.up_proj.bias"] = weights["model.layers.0.up_proj.bias"]
    base = write_checkpoint(tmp_path / "base", weights)
    expert = write_checkpoint(tmp_path / "ft", tuned)
    options = ExtractOptions(rank=2, save_rest=True)
    manifest = extract_adapter(base, expert, tmp_path / "lora", options)
    assert [row.module for row in manifest.modules] == ["model.layers.0.up_proj"]
    assert [row.tensor for row in manifest.rest] == [
        "model.layers.0.q_proj.bias",
        "model.layers.0.q_proj.weight",
    ]
    view = open_source(applied(base, tmp_path / "lora"))
    for name in ("model.layers.0.q_proj.weight", "model.layers.0.q_proj.bias"):
        assert torch.equal(read_all(view.tensors[name]), tuned[name].double())


def test_an_adapter_is_found_again_in_the_model_it_made(tmp_path: Path) -> None:
    weights = base_weights()
    base = write_llama(tmp_path / "base", weights)
    factors = random_factors(MODULES, 3, scale=0.05)
    view = applied(base, write_adapter(tmp_path / "lora", factors, lora_alpha=6))
    manifest = extract_adapter(base, view, tmp_path / "again", ExtractOptions(rank=8))
    assert {row.module: row.rank for row in manifest.modules} == dict.fromkeys(MODULES, 3)
    assert manifest.error < 1e-12
    found = open_source(applied(base, tmp_path / "again"))
    wanted = dense(weights, factors, dict.fromkeys(MODULES, 2.0))
    for name in wanted:
        difference = read_all(found.tensors[name]) - wanted[name]
        assert float(difference.abs().max()) < 1e-8


def test_globs_choose_what_is_extracted_and_embeddings_can_be(tmp_path: Path) -> None:
    weights = base_weights()
    tuned = fine_tuned(weights, 1)
    base, expert = write_llama(tmp_path / "base", weights), write_llama(tmp_path / "ft", tuned)
    options = ExtractOptions(rank=16, include=("*embed*", "*q_proj*"), exclude=("*.1.*",))
    manifest = extract_adapter(base, expert, tmp_path / "lora", options)
    assert [row.module for row in manifest.modules] == ["model.embed_tokens", Q]
    view = open_source(applied(base, tmp_path / "lora"))
    name = "model.embed_tokens.weight"
    assert float((read_all(view.tensors[name]) - tuned[name].double()).abs().max()) < 1e-8


def test_weights_stored_in_by_out_are_extracted_transposed(tmp_path: Path) -> None:
    name = "transformer.h.0.attn.c_attn"
    weights = {f"{name}.weight": torch.randn(8, 24), "transformer.wte.weight": torch.randn(32, 8)}
    tuned = {**weights, f"{name}.weight": weights[f"{name}.weight"] + 0.01 * torch.randn(8, 24)}
    base = write_checkpoint(tmp_path / "base", weights)
    expert = write_checkpoint(tmp_path / "ft", tuned)
    for directory in ("base", "ft"):
        (tmp_path / directory / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    extract_adapter(base, expert, tmp_path / "lora", ExtractOptions(rank=8))
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert config["fan_in_fan_out"] is True
    view = open_source(applied(base, tmp_path / "lora"))
    found = read_all(view.tensors[f"{name}.weight"])
    assert float((found - tuned[f"{name}.weight"].double()).abs().max()) < 1e-6


def test_nothing_to_extract_is_said(tmp_path: Path) -> None:
    weights = base_weights()
    base, twin = write_llama(tmp_path / "base", weights), write_llama(tmp_path / "twin", weights)
    with pytest.raises(CompatibilityError, match="nothing to extract"):
        extract_adapter(base, twin, tmp_path / "lora", ExtractOptions())
    assert not (tmp_path / "lora").exists()


def test_a_stranger_is_no_expert(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base", base_weights())
    stranger = write_llama(tmp_path / "stranger", base_weights(7))
    with pytest.raises(CompatibilityError, match="not a fine-tune"):
        extract_adapter(base, stranger, tmp_path / "lora", ExtractOptions())


def test_a_glob_that_matches_nothing_is_a_mistake(tmp_path: Path) -> None:
    weights = base_weights()
    base = write_llama(tmp_path / "base", weights)
    expert = write_llama(tmp_path / "ft", fine_tuned(weights, 1))
    with pytest.raises(RecipeError, match=r"no tensor matches 'q_proj'"):
        extract_adapter(base, expert, tmp_path / "lora", ExtractOptions(include=("q_proj",)))


def test_the_same_extraction_gives_the_same_bytes(tmp_path: Path) -> None:
    weights = base_weights()
    base = write_llama(tmp_path / "base", weights)
    expert = write_llama(tmp_path / "ft", fine_tuned(weights, 1))
    options = ExtractOptions(rank=4, dtype="bfloat16")
    first = extract_adapter(base, expert, tmp_path / "first", options)
    second = extract_adapter(base, expert, tmp_path / "second", options)
    assert first.digest == second.digest
    assert first.dtype == "bfloat16"
