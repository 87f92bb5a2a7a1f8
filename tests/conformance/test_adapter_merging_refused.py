"""Adapters that cannot be merged into one are refused with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from merge_core.checkpoints.adapters import open_adapter
from merge_core.checkpoints.checkpoint import open_checkpoint
from merge_core.errors import (
    CheckpointError,
    CompatibilityError,
    RecipeError,
)
from merge_core.methods import METHODS
from merge_core.operations.adapters.merge import merge_adapters
from merge_core.recipes.loading import parse_recipe
from tests.conformance.adapter_bench import Q0, Q1, SHAPES, UP, Bench
from tests.support.adapters import random_factors, write_adapter
from tests.support.checkpoints import write_checkpoint


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Adapters of different ranks, alphas, scalings and modules."""
    made = Bench(tmp_path)
    made.add("one", 2, seed=1, lora_alpha=5)
    made.add("two", 3, seed=2, lora_alpha=4, use_rslora=True)
    made.add("three", 1, seed=3, modules=(Q1, UP))
    return made


def test_a_method_that_is_not_linear_cannot_be_stacked(bench: Bench) -> None:
    with pytest.raises(RecipeError, match="ties is not linear"):
        bench.merge("ties", {"one": {"weight": 1.0}, "two": {"weight": 1.0}}, space="concat")


def test_adapters_of_other_shapes_are_refused(bench: Bench) -> None:
    write_adapter(bench.place / "wide", random_factors({Q0: (12, 9)}, 2))
    with pytest.raises(CompatibilityError, match=r"is \[12, 9\] here and \[12, 8\] in one"):
        bench.merge("linear", {"one": {"weight": 1.0}, "wide": {"weight": 1.0}})


def test_adapters_that_do_not_fit_the_base_are_refused(bench: Bench, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "base", {f"{Q0}.weight": torch.zeros(12, 8)})
    with pytest.raises(CompatibilityError, match="3 of the 4 tensors"):
        bench.merge("linear", {"one": {"weight": 1.0}}, base=open_checkpoint(tmp_path / "base"))


def test_what_is_saved_in_full_cannot_go_into_an_adapter_merge(bench: Bench) -> None:
    tensors = {"base_model.model.lm_head.weight": torch.zeros(4, 4)}
    write_adapter(bench.place / "full", random_factors({Q0: (12, 8)}, 2), tensors=tensors)
    with pytest.raises(CheckpointError, match=r"saves lm_head\.weight in full") as caught:
        bench.merge("linear", {"full": {"weight": 1.0}})
    assert "BASE+ADAPTER" in str(caught.value)


def test_a_copy_of_the_bases_weights_is_compared_with_them(bench: Bench, tmp_path: Path) -> None:
    weights = {f"{name}.weight": torch.randn(shape) for name, shape in SHAPES.items()}
    write_checkpoint(tmp_path / "base", weights)
    write_checkpoint(tmp_path / "other", {name: 2 * tensor for name, tensor in weights.items()})
    tensors = {f"base_model.model.{Q0}.base_layer.weight": weights[f"{Q0}.weight"]}
    write_adapter(bench.place / "with", random_factors({Q0: (12, 8)}, 2), tensors=tensors)
    models = {"with": {"weight": 1.0}}
    bench.merge("linear", models, base=open_checkpoint(tmp_path / "base"))
    assert not open_adapter(bench.place / "out").replaced
    with pytest.raises(CompatibilityError, match=f"carries {Q0}.weight of the base"):
        bench.merge("linear", models, "out2", base=open_checkpoint(tmp_path / "other"))


def test_slices_have_no_meaning_for_adapters(bench: Bench) -> None:
    source = {"model": "one", "layer_range": [0, 2]}
    with pytest.raises(RecipeError, match="slices has no meaning for adapters"):
        merge_adapters(
            parse_recipe({"merge_method": "passthrough", "slices": [{"sources": [source]}]}),
            {},
            bench.place / "out",
        )


def test_a_method_that_needs_data_is_refused(bench: Bench) -> None:
    needing = [each for each in METHODS.values() if each.calibration is not None]
    for method in needing:
        own = {p.name: 0.5 for p in method.per_model() if p.default is None}
        models = {"one": own, "two": own}
        with pytest.raises(RecipeError, match="measures models by running them"):
            bench.merge(method.name, models, recipe={"calibration": {"data": "texts.jsonl"}})


def test_adapters_that_name_different_bases_are_merged_with_a_warning(bench: Bench) -> None:
    bench.add("stranger", 2, seed=7, base_model_name_or_path="another/base")
    manifest = bench.merge("linear", {"one": {"weight": 1.0}, "stranger": {"weight": 1.0}})
    assert "another/base, some/base" in manifest.warnings[0]
