"""Models of many kinds, saved by transformers, verified, merged and loaded by transformers again.

The expected weights are computed twice: tensor by tensor from the files, by the oracle; and from
the models in memory, where experts are fused and tied weights have several names.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from merge_core.errors import CheckpointError, CompatibilityError, RecipeError
from merge_core.homes.home import Home
from merge_core.operations.merge import merge
from merge_core.recipes.loading import parse_recipe
from merge_core.records import CheckpointManifest, SourceCheckpoint
from merge_core.runtime.compute import Compute
from merge_core.tensors.names import group_of
from merge_core.verification.verify import verify
from tests.conformance import oracle
from tests.support.tiny_architectures import ARCHITECTURES, save_family
from tests.support.tiny_llama import described

Array = oracle.Array
Family = dict[str, SourceCheckpoint]

ONE_ULP = 2.0**-23


def _models(**parameters: list[float]) -> list[dict[str, Any]]:
    return [
        {"model": name, "parameters": {key: values[i] for key, values in parameters.items()}}
        for i, name in enumerate(("one", "two"))
    ]


RECIPES: dict[str, dict[str, Any]] = {
    "linear": {"merge_method": "linear", "models": _models(weight=[1.0, 3.0])},
    "task_arithmetic": {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": _models(weight=[0.5, -0.25]),
    },
    "ties": {
        "merge_method": "ties",
        "base_model": "base",
        "models": _models(weight=[1.0, 0.5], density=[0.4, 0.7]),
    },
    "slerp": {
        "merge_method": "slerp",
        "base_model": "base",
        "models": [{"model": "two"}],
        "parameters": {"t": 0.3},
    },
}


def _expected(method: str, base: Array, one: Array, two: Array) -> Array:
    if method == "linear":
        return oracle.linear([one, two], [1.0, 3.0])
    if method == "task_arithmetic":
        return base + 0.5 * (one - base) - 0.25 * (two - base)
    if method == "slerp":
        return oracle.slerp(base, two, 0.3)
    deltas = [oracle.trim(one - base, 0.4), oracle.trim(two - base, 0.7)]
    return oracle.add_task_vectors(base, deltas, [1.0, 0.5], consensus=True, normalize=True)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Family]]:
    """A base and two fine-tunes of an architecture, made once."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    root = tmp_path_factory.mktemp("architectures")

    def of(architecture: str) -> Family:
        directory = root / architecture
        if not directory.exists():
            save_family(architecture, directory)
        return {name: described(directory / name) for name in ("base", "one", "two")}

    yield of
    logging.enable_progress_bar()


def _merge(recipe: dict[str, Any], sources: Family, out: Path, home: Home) -> CheckpointManifest:
    parsed = parse_recipe(recipe)
    used = {name: sources[name] for name in parsed.references()}
    return merge(parsed, used, home=home, out=out, compute=Compute("cpu", 1))


def _loaded(directory: Path) -> dict[str, torch.Tensor]:
    """State of a model that transformers loads, with no weight missing or left over."""
    import transformers

    config = json.loads((directory / "config.json").read_text())
    kind = getattr(transformers, config["architectures"][0])
    model, info = kind.from_pretrained(directory, output_loading_info=True)
    assert {key: list(value) for key, value in info.items() if value} == {}
    return dict(model.state_dict())


def _weights(source: SourceCheckpoint) -> dict[str, Array]:
    tensors = load_file(source.directory / "model.safetensors")
    return {name: tensor.double().numpy() for name, tensor in tensors.items()}


@pytest.mark.parametrize("method", RECIPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_saved_by_transformers_is_merged_exactly_and_loads_again(
    architecture: str, method: str, family: Callable[[str], Family], tmp_path: Path, home: Home
) -> None:
    sources = family(architecture)
    report = verify(sources["base"], [sources["one"], sources["two"]])
    assert report.errors == report.warnings == ()
    _merge(RECIPES[method], sources, tmp_path / "out", home)
    merged = load_file(tmp_path / "out" / "model.safetensors")
    base, one, two = (_weights(sources[name]) for name in ("base", "one", "two"))
    assert merged.keys() == base.keys()
    for name, tensor in merged.items():
        expected = _expected(method, base[name], one[name], two[name])
        np.testing.assert_allclose(tensor.numpy(), expected, rtol=ONE_ULP, atol=1e-12, err_msg=name)
    state = _loaded(tmp_path / "out")
    if method in ("linear", "task_arithmetic"):
        ours = [_loaded(sources[name].directory) for name in ("base", "one", "two")]
        for name, tensor in state.items():
            parts = [each[name].double().numpy() for each in ours]
            expected = _expected(method, *parts)
            np.testing.assert_allclose(
                tensor.numpy(), expected, rtol=ONE_ULP, atol=1e-12, err_msg=name
            )


def _stack(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    return {"slices": [{"sources": [first]}, {"sources": [second]}]}


def _layers(model: str, start: int, end: int) -> dict[str, Any]:
    return {"model": model, "layer_range": [start, end]}


STACKS = {
    "llama": ("model.layers", None),
    "gpt2": ("transformer.h", None),
    "mixtral": ("model.layers", None),
    "qwen_moe": ("model.layers", None),
    "bert": ("bert.encoder.layer", None),
    "llava": ("language_model.model.layers", "language_model"),
    "qwen_vl": ("model.layers", "model"),
    "t5": ("decoder.block", "decoder"),
}
"""Prefix of the layers that are stacked, and the module that they are in, where it is needed."""
DEPTHS = {"t5": 3}
"""Layers of a model, where not 2: only the first of T5's has relative positions, and what comes
after the last is known where two are alike."""


@pytest.mark.parametrize("architecture", STACKS)
def test_layers_are_stacked_and_the_taller_model_loads(
    architecture: str, family: Callable[[str], Family], tmp_path: Path, home: Home
) -> None:
    sources = family(architecture)
    (prefix, module), depth = STACKS[architecture], DEPTHS.get(architecture, 2)
    stack = _stack(_layers("one", 0, depth), _layers("two", depth - 1, depth))
    rest = {"default": {"models": [{"model": "one"}]}}
    body = stack if module is None else {"modules": {module: stack, **rest}}
    _merge({"merge_method": "passthrough", **body}, sources, tmp_path / "out", home)
    merged, one, two = (
        load_file(directory / "model.safetensors")
        for directory in (tmp_path / "out", sources["one"].directory, sources["two"].directory)
    )
    for name, tensor in merged.items():
        last = name.startswith(f"{prefix}.{depth}.")
        in_stack = name.startswith(f"{prefix}.")
        below = name.replace(f".{depth}.", f".{depth - 1}.", 1)
        source, other = (two, below) if last else (one, name)
        if in_stack or not torch.equal(one[name], two[name]):
            candidates = [source[other]] if in_stack else [one[name], two[name]]
            assert any(torch.equal(tensor, each) for each in candidates), name
    assert any(name.startswith(f"{prefix}.{depth}.") for name in merged)
    assert not any(name.startswith(f"{prefix}.{depth + 1}.") for name in merged)
    _loaded(tmp_path / "out")


@pytest.mark.parametrize("architecture", ["t5", "llava", "qwen_vl", "clip"])
def test_slices_of_a_model_of_several_stacks_must_say_which(
    architecture: str, family: Callable[[str], Family], tmp_path: Path, home: Home
) -> None:
    recipe = {"merge_method": "passthrough", **_stack(_layers("one", 0, 2), _layers("two", 1, 2))}
    with pytest.raises(RecipeError, match="several stacks of layers") as caught:
        _merge(recipe, family(architecture), tmp_path / "out", home)
    assert "modules" in str(caught.value)


def test_a_tied_head_that_only_the_first_model_saved_stays_what_it_is(
    family: Callable[[str], Family], tmp_path: Path, home: Home
) -> None:
    sources = dict(family("gpt2"))
    tensors = load_file(sources["one"].directory / "model.safetensors")
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone()
    sources["one"] = _rewritten(sources["one"], tensors, tmp_path / "one")
    _merge(RECIPES["linear"], sources, tmp_path / "out", home)
    _merge(RECIPES["linear"], family("gpt2"), tmp_path / "without", home)
    merged, without = (load_file(tmp_path / o / "model.safetensors") for o in ("out", "without"))
    assert torch.equal(merged.pop("lm_head.weight"), merged["transformer.wte.weight"])
    assert merged.keys() == without.keys()
    assert all(torch.equal(merged[name], without[name]) for name in without)


def test_a_head_of_its_own_that_only_one_model_has_is_refused_with_the_reason(
    family: Callable[[str], Family], tmp_path: Path, home: Home
) -> None:
    sources = dict(family("gpt2"))
    tensors = load_file(sources["one"].directory / "model.safetensors")
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"] * 1.01
    sources["one"] = _rewritten(sources["one"], tensors, tmp_path / "one")
    with pytest.raises(CompatibilityError, match=r"lm_head\.weight") as caught:
        _merge(RECIPES["linear"], sources, tmp_path / "out", home)
    assert "ties its output head" in str(caught.value)


def test_tied_embeddings_that_all_models_saved_twice_are_merged_twice_alike(
    family: Callable[[str], Family], tmp_path: Path, home: Home
) -> None:
    sources = dict(family("t5"))
    names = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
    for model, source in sources.items():
        tensors = load_file(source.directory / "model.safetensors")
        tensors |= {name: tensors["shared.weight"].clone() for name in names}
        sources[model] = _rewritten(source, tensors, tmp_path / model)
    _merge(RECIPES["ties"], sources, tmp_path / "out", home)
    merged = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(merged[name], merged["shared.weight"]) for name in names)


def test_buffers_of_older_checkpoints_are_kept_as_they_are(
    family: Callable[[str], Family], tmp_path: Path, home: Home
) -> None:
    sources = dict(family("gpt2"))
    buffers = {
        "transformer.h.0.attn.bias": torch.ones(4, 4, dtype=torch.uint8).tril()[None, None],
        "transformer.h.0.attn.masked_bias": torch.tensor(-1e4),
        "transformer.h.1.attn.bias": torch.ones(4, 4).tril()[None, None],
        "transformer.position_ids": torch.arange(32)[None],
    }
    for model, source in sources.items():
        tensors = load_file(source.directory / "model.safetensors") | buffers
        sources[model] = _rewritten(source, tensors, tmp_path / model)
    for method in RECIPES:
        _merge(RECIPES[method], sources, tmp_path / method, home)
        merged = load_file(tmp_path / method / "model.safetensors")
        for name, buffer in buffers.items():
            assert merged[name].dtype == buffer.dtype
            assert torch.equal(merged[name], buffer), (method, name)


def _rewritten(
    source: SourceCheckpoint, tensors: dict[str, torch.Tensor], directory: Path
) -> SourceCheckpoint:
    shutil.copytree(source.directory, directory)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return described(directory)


def _unet(seed: int) -> dict[str, torch.Tensor]:
    """Some of the tensors of a small denoiser, by the names that diffusers gives them."""
    shapes = {
        "conv_in.weight": (8, 4, 3, 3),
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight": (8, 8),
        "down_blocks.0.resnets.0.conv1.weight": (8, 8, 3, 3),
        "mid_block.attentions.0.proj_in.weight": (8, 8),
        "time_embedding.linear_1.weight": (16, 8),
        "up_blocks.0.resnets.1.norm1.weight": (8,),
        "conv_out.bias": (4,),
    }
    start, step = torch.Generator().manual_seed(7), torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=start)
        + (0.01 * torch.randn(shape, generator=step) if seed else 0.0)
        for name, shape in shapes.items()
    }


@pytest.mark.parametrize("shards", [1, 3])
def test_a_diffusion_model_keeps_the_names_that_diffusers_loads(
    shards: int, tmp_path: Path, home: Home
) -> None:
    stem = "diffusion_pytorch_model"
    config = json.dumps({"_class_name": "UNet2DConditionModel", "_diffusers_version": "0.31.0"})
    sources = {}
    for seed, model in enumerate(("base", "one", "two")):
        directory = tmp_path / model / "unet"
        directory.mkdir(parents=True)
        (directory / "config.json").write_text(config)
        tensors = _unet(seed)
        files = [f"{stem}-{i:05}-of-{shards:05}.safetensors" for i in range(1, shards + 1)]
        files = files if shards > 1 else [f"{stem}.safetensors"]
        placed = {name: files[i % shards] for i, name in enumerate(tensors)}
        for file in files:
            part = {name: tensors[name] for name in tensors if placed[name] == file}
            save_file(part, directory / file)
        if shards > 1:
            index = json.dumps({"metadata": {}, "weight_map": placed})
            (directory / f"{stem}.safetensors.index.json").write_text(index)
        sources[model] = described(directory).model_copy(update={"reference": model})
    report = verify(sources["base"], [sources["one"], sources["two"]])
    assert report.errors == report.warnings == ()

    def merged(name: str, **options: int) -> dict[str, torch.Tensor]:
        parsed = parse_recipe(RECIPES["task_arithmetic"])
        merge(parsed, sources, home=home, out=tmp_path / name, compute=Compute("cpu"), **options)
        return open_tensors(tmp_path / name)

    whole = merged("whole")
    expected = {f"{stem}.safetensors", "config.json", "README.md", "mergeflow_recipe.yaml"}
    expected |= {"SHA256SUMS", "mergeflow_manifest.json"}
    assert {path.name for path in (tmp_path / "whole").iterdir()} == expected
    assert (tmp_path / "whole" / "config.json").read_text() == config
    assert "library_name: diffusers" in (tmp_path / "whole" / "README.md").read_text()
    in_parts = merged("parts", shard_bytes=2000)
    index = json.loads((tmp_path / "parts" / f"{stem}.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == in_parts.keys()
    assert all(file.startswith(f"{stem}-0") for file in index["weight_map"].values())
    for name, base in _unet(0).items():
        parts = [each[name].double().numpy() for each in (_unet(0), _unet(1), _unet(2))]
        expected_values = _expected("task_arithmetic", *parts)
        np.testing.assert_allclose(whole[name].numpy(), expected_values, rtol=ONE_ULP, atol=1e-12)
        assert torch.equal(whole[name], in_parts[name])
        assert base.shape == whole[name].shape


def open_tensors(directory: Path) -> dict[str, torch.Tensor]:
    """All tensors of all weight files of a directory."""
    return {
        name: tensor
        for path in sorted(directory.glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def test_a_pipeline_of_several_models_is_refused_with_the_directory_to_name(tmp_path: Path) -> None:
    for part in ("unet", "vae"):
        (tmp_path / "pipeline" / part).mkdir(parents=True)
        save_file(_unet(0), tmp_path / "pipeline" / part / "diffusion_pytorch_model.safetensors")
    (tmp_path / "pipeline" / "model_index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="several models: unet, vae") as caught:
        described(tmp_path / "pipeline")
    assert str(tmp_path / "pipeline" / "unet") in str(caught.value)


def test_the_groups_of_every_real_tensor_name_are_known(family: Callable[[str], Family]) -> None:
    """Only what is none of the groups may be `other`."""
    others = {
        name
        for architecture in ARCHITECTURES
        for name in _weights(family(architecture)["base"])
        if group_of(name) == "other"
    }
    projections = {"text_projection.weight", "visual_projection.weight", "logit_scale"}
    projector = {
        f"multi_modal_projector.linear_{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")
    }
    assert others <= projections | projector
    heads_of_modern_bert = ("decoder.bias", "head.dense.weight")
    assert {group_of(name) for name in heads_of_modern_bert} == {"head"}
