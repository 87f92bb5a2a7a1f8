"""Mends of checkpoints: files that are damaged, missing or of another kind, and put right."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.field.mends.situations import (
    VERIFY,
    Situation,
    Tensors,
    again,
    config,
    fine_tune,
    on_base,
    recipe,
    rewrite,
    situations,
    tensors_of,
)
from tests.support.adapters import random_factors, write_adapter
from tests.support.checkpoints import write_checkpoint
from tests.support.followed_mends import Advice, Shell, Step

pytestmark = pytest.mark.slow  # `make field`


def a_shard_is_missing(here: Path) -> Iterator[Step]:
    again(here, "a", 2)
    shard = here / "a/model-00002-of-00002.safetensors"
    kept = shard.rename(here / "elsewhere")
    yield VERIFY
    kept.rename(shard)
    yield VERIFY


def a_tensor_is_in_two_shards(here: Path) -> Iterator[Step]:
    again(here, "a", 2)
    first, second = sorted((here / "a").glob("*.safetensors"))
    save_file(load_file(first) | load_file(second), second, metadata={"format": "pt"})
    yield VERIFY
    again(here, "a", 2)
    yield VERIFY


def an_index_names_the_other_shard(here: Path) -> Iterator[Step]:
    again(here, "a", 2)
    index = here / "a/model.safetensors.index.json"
    content = json.loads(index.read_text())
    name, other = next(iter(content["weight_map"])), sorted(content["weight_map"].values())[-1]
    content["weight_map"][name] = other
    index.write_text(json.dumps(content))
    yield VERIFY
    again(here, "a", 2)
    yield VERIFY


def an_index_lacks_a_tensor(here: Path) -> Iterator[Step]:
    again(here, "a", 2)
    index = here / "a/model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"].pop("lm_head.weight")
    index.write_text(json.dumps(content))
    yield VERIFY
    again(here, "a", 2)
    yield VERIFY


def two_models_in_one_directory(here: Path) -> Iterator[Step]:
    again(here, "a", 2)
    for path in list((here / "a").iterdir()):
        if path.name != "config.json":
            shutil.copy(path, path.with_name(path.name.replace("model", "first", 1)))
            path.rename(path.with_name(path.name.replace("model", "second", 1)))
    for path in (here / "a").glob("*.index.json"):
        path.write_text(path.read_text().replace('"model-', f'"{path.name.split(".")[0]}-'))
    yield VERIFY
    (here / "other").mkdir()
    shutil.copy(here / "a/config.json", here / "other/config.json")
    for path in (here / "a").glob("second*"):
        path.rename(here / "other" / path.name)
    yield VERIFY


def an_index_points_outside(here: Path) -> Iterator[Step]:
    again(here, "a", 2)
    index = here / "a/model.safetensors.index.json"
    index.write_text(index.read_text().replace("model-00002", "../b/model-00002"))
    yield VERIFY
    again(here, "a", 2)
    yield VERIFY


def a_file_is_a_link_outside(here: Path) -> Iterator[Step]:
    weights = here / "a/model.safetensors"
    weights.rename(here / "elsewhere.safetensors")
    weights.symlink_to(here / "elsewhere.safetensors")
    yield VERIFY
    weights.unlink()
    shutil.copy(here / "elsewhere.safetensors", weights)
    yield VERIFY


def a_config_is_a_link_outside(here: Path) -> Iterator[Step]:
    (here / "a/config.json").rename(here / "elsewhere.json")
    (here / "a/config.json").symlink_to("/etc/passwd")
    yield VERIFY
    again(here, "a")
    yield VERIFY


def an_adapter_instead_of_weights(here: Path) -> Iterator[Step]:
    shutil.rmtree(here / "a")
    module = "model.layers.0.mlp.up_proj"
    write_adapter(here / "a", random_factors({module: (8, 8)}, 2, scale=0.02))
    yield VERIFY
    recipe(here, models=[{"model": "./base+./a"}, {"model": "./b"}])
    yield VERIFY


def weights_without_an_index(here: Path) -> Iterator[Step]:
    again(here, "a", 2)
    index = here / "a/model.safetensors.index.json"
    kept = index.rename(here / "kept")
    yield VERIFY
    kept.rename(index)
    yield VERIFY


def a_pickle(here: Path) -> Iterator[Step]:
    weights = here / "a/model.safetensors"
    torch.save(load_file(weights), here / "a/pytorch_model.bin")
    weights.unlink()
    yield VERIFY
    loaded = torch.load(here / "a/pytorch_model.bin", weights_only=True)
    save_file(loaded, weights, metadata={"format": "pt"})
    yield VERIFY


def a_pipeline_of_models(here: Path) -> Iterator[Step]:
    (here / "pipe").mkdir()
    (here / "a").rename(here / "pipe/a")
    (here / "pipe/model_index.json").write_text("{}")
    recipe(here, models=[{"model": "./pipe"}, {"model": "./b"}])
    yield VERIFY
    recipe(here, models=[{"model": "./pipe/a"}, {"model": "./b"}])
    yield VERIFY


def no_weights_at_all(here: Path) -> Iterator[Step]:
    (here / "a/model.safetensors").unlink()
    yield VERIFY
    again(here, "a")
    yield VERIFY


def weights_that_are_quantised(here: Path) -> Iterator[Step]:
    def packed(tensors: Tensors) -> None:
        name = "model.layers.0.mlp.up_proj"
        tensors.pop(f"{name}.weight")
        tensors[f"{name}.qweight"] = torch.zeros(8, 1, dtype=torch.int32)
        tensors[f"{name}.qzeros"] = torch.zeros(1, 1, dtype=torch.int32)
        tensors[f"{name}.scales"] = torch.ones(1, 8, dtype=torch.float16)

    rewrite(here / "a", packed)
    yield VERIFY
    again(here, "a")
    yield VERIFY


def a_quantisation_that_is_left_over(here: Path) -> Iterator[Step]:
    config(here / "a", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    yield VERIFY
    config(here / "a")
    yield VERIFY


def a_config_of_other_weights(here: Path) -> Iterator[Step]:
    config(here / "a", hidden_size=16, vocab_size=8)
    yield VERIFY
    config(here / "a", hidden_size=8, vocab_size=8)
    yield VERIFY


def code_of_its_own(here: Path) -> Iterator[Step]:
    config(here / "a", auto_map={"AutoModelForCausalLM": "modeling_x.Model"})
    (here / "a/modeling_x.py").write_text("class Model: pass\n")
    config(here / "b", auto_map={"AutoModelForCausalLM": "modeling_x.Model"})
    shutil.copy(here / "a/modeling_x.py", here / "b")
    yield VERIFY

    def with_code() -> str:
        from flows.cli.program import run

        assert run(["merge", "recipe.yaml", "out", "--copy-code"]) == 0
        assert (here / "out/modeling_x.py").is_file()
        return "copied"

    yield (with_code,)


def no_config(here: Path) -> Iterator[Step]:
    (here / "a/config.json").unlink()
    yield VERIFY
    config(here / "a")
    yield VERIFY


def another_architecture(here: Path) -> Iterator[Step]:
    config(here / "a", model_type="mistral", architectures=["MistralForCausalLM"])
    yield VERIFY
    recipe(here, models=[{"model": "./base"}, {"model": "./b"}])
    yield VERIFY


def more_tokens(here: Path) -> Iterator[Step]:
    shutil.rmtree(here / "a")
    longer = fine_tune(tensors_of(0), 1)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        longer[name] = torch.cat([longer[name], torch.randn(2, 8)])
    write_checkpoint(here / "a", longer)
    yield VERIFY
    recipe(here, tokenizer_source="union")
    yield VERIFY


def other_sizes(here: Path) -> Iterator[Step]:
    name = "model.layers.0.mlp.up_proj.weight"
    rewrite(here / "a", lambda tensors: tensors.update({name: torch.ones(8, 16)}))
    yield VERIFY
    again(here, "a")
    yield VERIFY


def integers_beside_floats(here: Path) -> Iterator[Step]:
    name = "model.layers.0.input_layernorm.weight"
    rewrite(here / "a", lambda tensors: tensors.update({name: torch.ones(8, dtype=torch.int64)}))
    on_base(here)
    yield VERIFY
    on_base(here, exclude=[name])
    yield VERIFY


def settings_that_compute_otherwise(here: Path) -> Iterator[Step]:
    for name, value in (("base", 1e-6), ("a", 1e-5)):
        config(here / name, rms_norm_eps=value)
    on_base(here)
    yield VERIFY
    config(here / "a", rms_norm_eps=1e-6)
    yield VERIFY


def other_positions(here: Path) -> Iterator[Step]:
    for name, value in (("base", 10000.0), ("a", 500000.0), ("b", 10000.0)):
        config(here / name, rope_theta=value)
    on_base(here)
    yield VERIFY
    on_base(here, "./b")
    yield VERIFY


def another_context(here: Path) -> Iterator[Step]:
    for name, value in (("base", 2048), ("a", 8192), ("b", 2048)):
        config(here / name, max_position_embeddings=value)
    on_base(here)
    yield VERIFY
    on_base(here, "./b")
    yield VERIFY


def a_tensor_is_missing(here: Path) -> Iterator[Step]:
    rewrite(here / "a", lambda tensors: tensors.pop("model.layers.3.mlp.up_proj.weight"))
    yield VERIFY
    again(here, "a")
    yield VERIFY


def a_head_is_tied(here: Path) -> Iterator[Step]:
    def named(tensors: Tensors) -> None:
        tensors["an lm_head.weight"] = tensors.pop("lm_head.weight")

    rewrite(here / "a", lambda tensors: tensors.pop("lm_head.weight"))
    rewrite(here / "b", named)  # no line of a recipe can be advised that excludes such a name
    yield VERIFY
    again(here, "a")
    rewrite(here / "a", named)
    yield VERIFY


def another_class_saved_it(here: Path) -> Iterator[Step]:
    def renamed(tensors: Tensors) -> None:
        for number, name in enumerate(list(tensors)):
            tensors[f"part{number}.weight"] = tensors.pop(name)

    rewrite(here / "a", renamed)
    yield VERIFY
    again(here, "a")
    yield VERIFY


def no_numbers_in_the_weights(here: Path) -> Iterator[Step]:
    name = "model.layers.0.mlp.up_proj.weight"
    rewrite(here / "a", lambda tensors: tensors[name].view(-1)[3:4].fill_(float("nan")))
    yield VERIFY
    again(here, "a")
    yield VERIFY


def a_truncated_file(here: Path) -> Iterator[Step]:
    weights = here / "a/model.safetensors"
    with weights.open("r+b") as file:
        file.truncate(weights.stat().st_size - 100)
    yield VERIFY
    again(here, "a")
    yield VERIFY


def a_file_that_may_not_be_read(here: Path) -> Iterator[Step]:
    (here / "a/config.json").unlink()
    (here / "a/config.json").mkdir()
    yield VERIFY
    again(here, "a")
    yield VERIFY


def an_index_of_another_save(here: Path) -> Iterator[Step]:
    again(here, "a", 2)
    index = here / "a/model.safetensors.index.json"
    right = index.read_text()
    content = json.loads(right)
    first = "model-00001-of-00002.safetensors"
    content["weight_map"] = {k: v for k, v in content["weight_map"].items() if v == first}
    index.write_text(json.dumps(content))
    yield VERIFY
    index.write_text(right)
    yield VERIFY


def two_layouts(here: Path) -> Iterator[Step]:
    again(here, "a", 2)
    shutil.copy(here / "b/model.safetensors", here / "a/model.safetensors")
    yield VERIFY
    (here / "a/model.safetensors").unlink()
    yield VERIFY


@pytest.mark.parametrize("situation", situations(globals()), ids=lambda each: each.__name__)
def test_checkpoint(situation: Situation, here: Path, mergeflow: Shell, advice: Advice) -> None:
    recipe(here)
    advice.follow(mergeflow, situation(here))
