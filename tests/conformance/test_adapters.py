"""Adapters against dense float64 arithmetic: applied as weights stream, merged, extracted."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from merge_core.checkpoints.adapters import open_adapter
from merge_core.checkpoints.sources import describe_adapter, open_source, with_adapter
from merge_core.files.digests import DigestMemo
from merge_core.operations.profile import profile_task_vectors
from merge_core.records import SourceCheckpoint
from merge_core.tensors.block_reader import BlockReader
from merge_core.tensors.inputs import FeedContext, TensorInput
from merge_core.verification.verify import verify
from tests.support.adapters import Factors, random_factors, write_adapter
from tests.support.checkpoints import run_recipe, write_checkpoint
from tests.support.tiny_llama import SHAPES, base_weights, fine_tuned, write_llama

Q = "model.layers.0.self_attn.q_proj"
UP = "model.layers.1.mlp.up_proj"
MODULES = {
    name.removesuffix(".weight"): (shape[0], shape[1])
    for name, shape in SHAPES.items()
    if "proj" in name
}


def applied(base: SourceCheckpoint, directory: Path, reference: str = "") -> SourceCheckpoint:
    adapter = describe_adapter(directory.name, directory, DigestMemo(None))
    return with_adapter(reference or f"{base.reference}+{directory.name}", base, adapter)


def read_all(tensor: TensorInput, block: int | None = None) -> torch.Tensor:
    """A tensor's values in float64, read in blocks of a size."""
    with BlockReader() as reader:
        feed = tensor.open(FeedContext(reader, torch.device("cpu"), 1 << 18))
        step = block or max(1, tensor.numel)
        parts = [
            feed.read(start, min(step, tensor.numel - start)).clone()
            for start in range(0, tensor.numel, step)
        ]
    return torch.cat(parts).view(tensor.shape)


def dense(
    weights: Mapping[str, torch.Tensor], factors: Factors, scaling: Mapping[str, float]
) -> dict[str, torch.Tensor]:
    """base + scaling * B @ A by numpy in float64."""
    result = {name: tensor.double() for name, tensor in weights.items()}
    for module, (a, b) in factors.items():
        product = b.double().numpy() @ a.double().numpy()
        result[f"{module}.weight"] = result[f"{module}.weight"] + torch.from_numpy(
            np.asarray(scaling[module] * product)
        )
    return result


def assert_close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-14) -> None:
    assert found.shape == wanted.shape
    scale = float(wanted.abs().max())
    assert float((found - wanted).abs().max()) <= tolerance * scale


# --- applied --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "scaling"),
    [
        ({"lora_alpha": 16}, {Q: 16 / 3, UP: 16 / 5}),
        ({"lora_alpha": 16, "use_rslora": True}, {Q: 16 / math.sqrt(3), UP: 16 / math.sqrt(5)}),
        ({"lora_alpha": 16, "alpha_pattern": {"up_proj": 7}}, {Q: 16 / 3, UP: 7 / 5}),
        ({"lora_alpha": -2.5}, {Q: -2.5 / 3, UP: -2.5 / 5}),
    ],
)
def test_an_adapted_tensor_is_the_base_plus_the_scaled_product(
    tmp_path: Path, settings: dict[str, Any], scaling: dict[str, float]
) -> None:
    weights = base_weights()
    base = write_llama(tmp_path / "base", weights)
    factors = random_factors({Q: MODULES[Q], UP: MODULES[UP]}, {Q: 3, UP: 5})
    lora = write_adapter(tmp_path / "lora", factors, r=3, rank_pattern={"up_proj": 5}, **settings)
    view = open_source(applied(base, lora))
    wanted = dense(weights, factors, scaling)
    assert set(view.tensors) == set(weights)
    for name, tensor in view.tensors.items():
        assert_close(read_all(tensor), wanted[name])
        assert tensor.dtype == "F32"


def test_a_weight_stored_in_by_out_gets_the_transpose(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    weights = {
        "transformer.h.0.attn.c_attn.weight": torch.randn(8, 24, generator=generator),
        "transformer.h.0.attn.c_proj.weight": torch.randn(8, 8, generator=generator),
        "lm_head.weight": torch.randn(32, 8, generator=generator),
    }
    base = write_checkpoint(tmp_path / "base", weights)
    (tmp_path / "base" / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    modules = {
        "transformer.h.0.attn.c_attn": (24, 8),
        "transformer.h.0.attn.c_proj": (8, 8),
        "lm_head": (32, 8),
    }
    factors = random_factors(modules, 2)
    view = open_source(applied(base, write_adapter(tmp_path / "lora", factors, lora_alpha=2)))
    for module, (a, b) in factors.items():
        product = b.double() @ a.double()
        wanted = product if module == "lm_head" else product.T
        name = f"{module}.weight"
        assert_close(read_all(view.tensors[name]), weights[name].double() + wanted)


def test_an_embedding_gets_the_transpose_of_its_factors(tmp_path: Path) -> None:
    weights = base_weights()
    base = write_llama(tmp_path / "base", weights)
    a, b = torch.randn(4, 32), torch.randn(16, 4)
    name = "model.embed_tokens"
    tensors = {
        f"base_model.model.{name}.lora_embedding_A": a,
        f"base_model.model.{name}.lora_embedding_B": b,
    }
    lora = write_adapter(tmp_path / "lora", {}, tensors=tensors, r=4, lora_alpha=6)
    view = open_source(applied(base, lora))
    wanted = weights[f"{name}.weight"].double() + 1.5 * (b.double() @ a.double()).T
    assert_close(read_all(view.tensors[f"{name}.weight"]), wanted)


def test_modules_saved_in_full_take_the_place_of_the_bases(tmp_path: Path) -> None:
    weights = base_weights(dtype=torch.bfloat16)
    base = write_llama(tmp_path / "base", weights)
    head = torch.randn(32, 16)
    tensors = {"base_model.model.lm_head.weight": head}
    lora = write_adapter(tmp_path / "lora", random_factors({Q: (16, 16)}, 2), tensors=tensors)
    tensor = open_source(applied(base, lora)).tensors["lm_head.weight"]
    assert torch.equal(read_all(tensor), head.double())
    assert tensor.dtype == "BF16"


def test_a_dora_is_the_sum_with_its_rows_brought_to_the_magnitudes(tmp_path: Path) -> None:
    weights = base_weights()
    base = write_llama(tmp_path / "base", weights)
    factors = random_factors({UP: (48, 16)}, 4)
    magnitude = torch.rand(48) + 0.5
    tensors = {f"base_model.model.{UP}.lora_magnitude_vector": magnitude}
    lora = write_adapter(tmp_path / "d", factors, tensors=tensors, use_dora=True, lora_alpha=8)
    found = read_all(open_source(applied(base, lora)).tensors[f"{UP}.weight"])
    plain = dense(weights, factors, {UP: 2.0})[f"{UP}.weight"]
    wanted = plain * (magnitude.double() / plain.norm(dim=1))[:, None]
    assert_close(found, wanted)


def test_the_bits_of_an_adapted_tensor_do_not_depend_on_the_block(tmp_path: Path) -> None:
    rows, columns = 1100, 700  # several tiles, the last of them padded
    weights = {f"{Q}.weight": torch.randn(rows, columns).to(torch.bfloat16)}
    base = write_checkpoint(tmp_path / "base", weights)
    factors = random_factors({Q: (rows, columns)}, 13, dtype=torch.bfloat16)
    lora = write_adapter(tmp_path / "lora", factors, lora_alpha=5)
    tensor = open_source(applied(base, lora)).tensors[f"{Q}.weight"]
    whole = read_all(tensor).view(-1)
    chance = random.Random(0)
    with BlockReader() as reader:
        context = FeedContext(reader, torch.device("cpu"), 1 << 18)
        feed = tensor.open(context)
        for trial in range(150):
            start = chance.randrange(tensor.numel)
            longest = tensor.numel - start if trial % 2 else min(3000, tensor.numel - start)
            count = chance.randint(1, longest)
            if trial % 10 == 0:
                feed = tensor.open(context)
            assert torch.equal(feed.read(start, count), whole[start : start + count])


# --- as inputs of a recipe ------------------------------------------------------------------------


def two_adapted(tmp_path: Path, dtype: torch.dtype) -> tuple[SourceCheckpoint, Any, Any]:
    """A base, two sources base+lora, and the same two written out densely in float32."""
    weights = base_weights(dtype=dtype)
    base = write_llama(tmp_path / "base", weights)
    views, written = [], []
    for index, rank in enumerate((2, 5)):
        factors = random_factors(MODULES, rank, seed=index, scale=0.05)
        lora = write_adapter(tmp_path / f"lora{index}", factors, lora_alpha=2 * rank + 1)
        views.append(applied(base, lora))
        scaling = dict.fromkeys(MODULES, (2 * rank + 1) / rank)
        full = {k: v.float() for k, v in dense(weights, factors, scaling).items()}
        written.append(write_llama(tmp_path / f"dense{index}", full))
    return base, views, written


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("ties", {"weight": 0.7, "density": 0.4}),
        ("task_arithmetic", {"weight": 0.5}),
        ("linear", {"weight": 0.5}),
    ],
)
def test_merging_adapted_models_equals_merging_dense_ones(
    tmp_path: Path, method: str, parameters: dict[str, float]
) -> None:
    base, views, written = two_adapted(tmp_path, torch.float32)
    results = []
    for kind, models in (("views", views), ("dense", written)):
        recipe: dict[str, Any] = {
            "merge_method": method,
            "models": [{"model": m.reference, "parameters": parameters} for m in models],
            "out_dtype": "float32",
        }
        if method != "linear":
            recipe["base_model"] = base.reference
        sources = {source.reference: source for source in (base, *models)}
        run_recipe(recipe, sources, tmp_path / kind)
        results.append(load_file(tmp_path / kind / "model.safetensors"))
    ours, theirs = results
    assert ours.keys() == theirs.keys()
    for name in ours:
        difference = (ours[name].double() - theirs[name].double()).abs()
        # A trim may fall on the other side for values that differ in the last bit.
        assert float(difference.median()) <= 1e-7
        assert float((difference > 1e-6).double().mean()) <= 0.01


def test_threads_and_blocks_do_not_change_a_byte(tmp_path: Path) -> None:
    base, views, _ = two_adapted(tmp_path, torch.bfloat16)
    recipe = {
        "merge_method": "ties",
        "base_model": base.reference,
        "models": [
            {"model": view.reference, "parameters": {"weight": 1.0, "density": 0.5}}
            for view in views
        ],
    }
    sources = {source.reference: source for source in (base, *views)}
    manifests = [
        run_recipe(recipe, sources, tmp_path / f"out{i}", threads=threads, block_elements=block)
        for i, (threads, block) in enumerate([(1, None), (3, 1 << 16), (2, 1 << 20)])
    ]
    assert len({manifest.object_id for manifest in manifests}) == 1


def test_passthrough_writes_the_adapted_model_in_the_bases_layout(tmp_path: Path) -> None:
    weights = base_weights(dtype=torch.bfloat16)
    base = write_llama(tmp_path / "base", weights)
    factors = random_factors(MODULES, 4)
    view = applied(base, write_adapter(tmp_path / "lora", factors, lora_alpha=4))
    recipe = {"merge_method": "passthrough", "models": [{"model": view.reference}]}
    run_recipe(recipe, {view.reference: view}, tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    wanted = dense(weights, factors, dict.fromkeys(MODULES, 1.0))
    for name, tensor in found.items():
        assert torch.equal(tensor, wanted[name].to(torch.bfloat16)), name


def test_verify_sees_an_adapted_model_as_a_fine_tune_of_its_base(tmp_path: Path) -> None:
    base, views, _ = two_adapted(tmp_path, torch.float32)
    report = verify(base, views)
    assert report.ok
    assert [row.verdict for row in report.rows[1:]] == ["fine-tune of the base"] * 2
    assert not [finding for finding in report.findings if "identical" in finding.code]


def test_verify_names_the_factor_that_holds_nan(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base", base_weights())
    factors = random_factors({Q: MODULES[Q]}, 2)
    factors[Q][0][0, 0] = float("nan")
    view = applied(base, write_adapter(tmp_path / "lora", factors))
    report = verify(base, [view])
    (error,) = report.errors
    assert error.code == "non-finite-weights"
    assert "lora_A" in error.message
    assert error.subject == view.reference


def test_nan_in_the_base_is_found_in_every_model_made_of_it(tmp_path: Path) -> None:
    weights = base_weights()
    weights[f"{UP}.weight"][3, 3] = float("inf")
    base = write_llama(tmp_path / "base", weights)
    loras = [
        write_adapter(tmp_path / name, random_factors(MODULES, 2, seed=seed))
        for seed, name in enumerate(("one", "two"))
    ]
    report = verify(base, [applied(base, lora) for lora in loras])
    found = [error.subject for error in report.errors if error.code == "non-finite-weights"]
    assert found == ["base", "base+one", "base+two"]


def test_a_profile_measures_what_the_adapter_adds(tmp_path: Path) -> None:
    base, views, written = two_adapted(tmp_path, torch.float32)
    ours, theirs = (profile_task_vectors(base, models) for models in (views, written))
    assert ours.overall.norms == pytest.approx(theirs.overall.norms, rel=1e-4)
    assert ours.overall.cosines == pytest.approx(theirs.overall.cosines, abs=1e-4)
    assert ours.overall.norms[0] > 0


def test_the_digest_covers_base_and_adapter(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base", base_weights())
    other_base = write_llama(tmp_path / "other", fine_tuned(base_weights(), 1))
    one = write_adapter(tmp_path / "one", random_factors(MODULES, 2, seed=1))
    two = write_adapter(tmp_path / "two", random_factors(MODULES, 2, seed=1), lora_alpha=3)
    digests = {
        applied(base, one).digest,
        applied(base, two).digest,
        applied(other_base, one).digest,
        base.digest,
    }
    assert len(digests) == 4
    assert applied(base, one).digest == applied(base, one, "another/name").digest


def test_an_adapter_reports_its_pairs_by_module(tmp_path: Path) -> None:
    lora = open_adapter(write_adapter(tmp_path / "lora", random_factors(MODULES, 2)))
    assert [pair.module for pair in lora.pairs] == sorted(MODULES)
