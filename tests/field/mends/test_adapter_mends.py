"""Mends of LoRA adapters: another base, another form, or merged into their base first.

Where PEFT's `merge_and_unload` is advised, its arithmetic is done by hand: W + B @ A.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.field.mends.situations import (
    MERGE,
    VERIFY,
    Situation,
    again,
    config,
    fine_tune,
    on_base,
    recipe,
    replaced,
    rewrite,
    situations,
    tensors_of,
)
from tests.support.adapters import random_factors, write_adapter
from tests.support.followed_mends import Advice, Shell, Step

pytestmark = pytest.mark.slow  # `make field`

UP = "model.layers.0.mlp.up_proj"
EMBEDDING = "model.embed_tokens"


def lora(here: Path, name: str = "lora", module: str = UP, rows: int = 8, **settings: Any) -> Path:
    """An adapter of one module, in place of another of the same name."""
    shutil.rmtree(here / name, ignore_errors=True)
    seed = sum(map(ord, name))
    factors = random_factors({module: (rows, 8)}, 2, scale=0.05, seed=seed)
    return write_adapter(here / name, factors, **settings)


def adapted(here: Path, name: str = "lora") -> None:
    """Write recipe.yaml: the base with an adapter beside b."""
    recipe(here, models=[{"model": f"./base+./{name}"}, {"model": "./b"}])


def merge_and_unload(here: Path, name: str = "lora", module: str = UP) -> None:
    """What PEFT does: write the base with the adapter added, and name that instead."""
    factors = load_file(here / name / "adapter_model.safetensors")
    prefix = f"base_model.model.{module}"
    made = factors[f"{prefix}.lora_B.weight"] @ factors[f"{prefix}.lora_A.weight"]
    base = tensors_of(0)
    base[f"{module}.weight"] += made
    replaced(here, "merged", base)
    recipe(here, models=[{"model": "./merged"}, {"model": "./b"}])


def no_config(here: Path) -> Iterator[Step]:
    (lora(here) / "adapter_config.json").unlink()
    adapted(here)
    yield VERIFY
    lora(here, "saved")
    adapted(here, "saved")
    yield VERIFY


def an_adapter_with_a_name(here: Path) -> Iterator[Step]:
    """PEFT saves `adapter_name="style"` in a directory of that name."""
    lora(here, "run/style")
    adapted(here, "run")
    yield VERIFY
    adapted(here, "run/style")
    yield VERIFY


def an_adapter_of_another_library(here: Path) -> Iterator[Step]:
    path = lora(here) / "adapter_config.json"
    path.write_text(json.dumps({"fine_tune_type": "lora", "lora_parameters": {"rank": 2}}))
    adapted(here)
    yield VERIFY
    merge_and_unload(here)
    yield VERIFY


def no_weights(here: Path) -> Iterator[Step]:
    (lora(here) / "adapter_model.safetensors").unlink()
    adapted(here)
    yield VERIFY
    lora(here)
    yield VERIFY


def a_pickle(here: Path) -> Iterator[Step]:
    weights = lora(here) / "adapter_model.safetensors"
    torch.save(load_file(weights), weights.with_name("adapter_model.bin"))
    weights.unlink()
    adapted(here)
    yield VERIFY
    loaded = torch.load(weights.with_name("adapter_model.bin"), weights_only=True)
    save_file(loaded, weights)
    yield VERIFY


def another_kind(here: Path) -> Iterator[Step]:
    lora(here, peft_type="LOHA")
    adapted(here)
    yield VERIFY
    merge_and_unload(here)
    yield VERIFY


def a_setting_that_is_wrong(here: Path) -> Iterator[Step]:
    lora(here, r=0)
    adapted(here)
    yield VERIFY
    lora(here)
    yield VERIFY


def factors_of_another_rank(here: Path) -> Iterator[Step]:
    lora(here, r=4)
    adapted(here)
    yield VERIFY
    lora(here)
    yield VERIFY


def a_start_that_is_drawn(here: Path) -> Iterator[Step]:
    lora(here, init_lora_weights="pissa_niter_16")
    adapted(here)
    yield VERIFY
    lora(here, init_lora_weights=True)
    yield VERIFY


def a_start_in_a_base_of_doubles(here: Path) -> Iterator[Step]:
    lora(here, init_lora_weights="olora")
    recipe(here, models=[{"model": "./base+./lora"}])
    replaced(here, "base", {name: each.double() for name, each in tensors_of(0).items()})
    yield VERIFY
    again(here, "base")
    yield VERIFY


def factors_without_the_start(here: Path) -> Iterator[Step]:
    lora(here, init_lora_weights="pissa")
    recipe(here, models=[{"model": "./lora"}])
    yield ("adapter", "merge", "recipe.yaml", "both")
    recipe(here, models=[{"model": "./base+./lora"}])
    yield MERGE


def a_start_of_its_data(here: Path) -> Iterator[Step]:
    lora(here, init_lora_weights="corda")
    adapted(here)
    yield VERIFY
    lora(here, init_lora_weights=True)
    yield VERIFY


def weights_that_were_rounded(here: Path) -> Iterator[Step]:
    lora(here, init_lora_weights="loftq")
    adapted(here)
    yield VERIFY
    lora(here, init_lora_weights=True)
    shutil.copytree(here / "base", here / "backbone")
    recipe(here, models=[{"model": "./backbone+./lora"}, {"model": "./b"}])
    yield VERIFY


def a_start_that_is_not_known(here: Path) -> Iterator[Step]:
    lora(here, init_lora_weights="of_tomorrow")
    adapted(here)
    yield VERIFY
    file = here / "lora/adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"init_lora_weights": True}))
    yield VERIFY


def a_setting_that_is_not_known(here: Path) -> Iterator[Step]:
    lora(here, of_tomorrow=True)
    adapted(here)
    yield VERIFY
    file = here / "lora/adapter_config.json"
    kept = {k: v for k, v in json.loads(file.read_text()).items() if k != "of_tomorrow"}
    file.write_text(json.dumps(kept))
    yield VERIFY


def a_quantised_base(here: Path) -> Iterator[Step]:
    lora(here)
    name = f"{UP}.weight"
    packed = torch.zeros(8, 8, dtype=torch.int8)
    rewrite(here / "base", lambda tensors: tensors.update({name: packed}))
    adapted(here)
    yield VERIFY
    replaced(here, "base", tensors_of(0))
    yield VERIFY


def a_head_that_is_tied(here: Path) -> Iterator[Step]:
    lora(here, module=EMBEDDING)
    keys = {"tie_word_embeddings": True, "vocab_size": 8, "architectures": ["LlamaForCausalLM"]}
    for name in ("base", "b"):
        rewrite(here / name, lambda tensors: tensors.pop("lm_head.weight"))
        config(here / name, **keys)
    adapted(here)
    yield VERIFY
    for name in ("base", "b"):
        rewrite(
            here / name,
            lambda tensors: tensors.update(
                {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
            ),
        )
        config(here / name, **keys | {"tie_word_embeddings": False})
    yield VERIFY


def another_base(here: Path) -> Iterator[Step]:
    lora(here, module="model.layers.0.mlp.other_proj", base_model_name_or_path=None)
    adapted(here)
    yield VERIFY
    wider = tensors_of(0) | {"model.layers.0.mlp.other_proj.weight": torch.ones(8, 8)}
    for name in ("own", "tuned"):
        replaced(here, name, wider)
    recipe(here, models=[{"model": "./own+./lora"}, {"model": "./tuned"}])
    yield VERIFY


def another_base_that_is_named(here: Path) -> Iterator[Step]:
    lora(here, rows=16, base_model_name_or_path="org/own")
    adapted(here)
    yield VERIFY
    wider = tensors_of(0)
    wider[f"{UP}.weight"] = torch.randn(8, 16)
    for name in ("own", "tuned"):
        replaced(here, name, wider)
    recipe(here, models=[{"model": "./own+./lora"}, {"model": "./tuned"}])
    yield VERIFY


def a_head_that_the_base_lacks(here: Path) -> Iterator[Step]:
    head = {"base_model.model.score.weight": torch.randn(3, 8)}
    factors = random_factors({UP: (8, 8)}, 2, scale=0.05)
    write_adapter(
        here / "lora", factors, tensors=head, task_type="SEQ_CLS", modules_to_save=["score"]
    )
    adapted(here)
    yield VERIFY
    # What AutoModelForSequenceClassification.from_pretrained(BASE, num_labels=3) saves.
    for name in ("base", "b"):
        rewrite(here / name, lambda tensors: tensors.update({"score.weight": torch.randn(3, 8)}))
    yield VERIFY


def embeddings_that_were_resized(here: Path) -> Iterator[Step]:
    larger = {f"base_model.model.{EMBEDDING}.weight": torch.randn(10, 8)}
    factors = random_factors({UP: (8, 8)}, 2, scale=0.05)
    write_adapter(here / "lora", factors, tensors=larger, modules_to_save=["embed_tokens"])
    adapted(here)
    yield VERIFY
    resized = tensors_of(0, rows=10)
    replaced(here, "base", resized)
    replaced(here, "b", fine_tune(resized, 2))
    yield VERIFY


def a_module_that_was_not_saved(here: Path) -> Iterator[Step]:
    lora(here, modules_to_save=["lm_head"])
    adapted(here)
    yield VERIFY
    lora(here)
    yield VERIFY


def an_adapter_beside_full_weights(here: Path) -> Iterator[Step]:
    lora(here)
    recipe(here)
    for path in (here / "lora").iterdir():
        shutil.copy(path, here / "a" / path.name)
    yield VERIFY
    for path in (here / "lora").iterdir():
        (here / "a" / path.name).unlink()
    yield VERIFY


def a_layer_that_is_stored_transposed(here: Path) -> Iterator[Step]:
    factors = random_factors({"h.0.attn.c_attn": (24, 8)}, 2, scale=0.05)
    magnitude = {"base_model.model.h.0.attn.c_attn.lora_magnitude_vector": torch.ones(24)}
    write_adapter(here / "lora", factors, tensors=magnitude, use_dora=True, fan_in_fan_out=True)
    base = {"h.0.attn.c_attn.weight": torch.randn(8, 24)}
    for name in ("base", "b"):
        replaced(here, name, base)
        config(here / name, model_type="gpt2")
    adapted(here)
    yield VERIFY
    replaced(here, "merged", {"h.0.attn.c_attn.weight": base["h.0.attn.c_attn.weight"] * 1.01})
    config(here / "merged", model_type="gpt2")
    recipe(here, models=[{"model": "./merged"}, {"model": "./b"}])
    yield VERIFY


def a_dora_without_a_direction(here: Path) -> Iterator[Step]:
    def dora(rows: torch.Tensor) -> None:
        shutil.rmtree(here / "lora", ignore_errors=True)
        factors = random_factors({UP: (8, 8)}, 2, scale=0.05)
        a, b = factors[UP]
        magnitude = {f"base_model.model.{UP}.lora_magnitude_vector": torch.ones(8)}
        write_adapter(here / "lora", {UP: (a, b * rows)}, tensors=magnitude, use_dora=True)

    def of_zeros(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"{UP}.weight"][0] = 0

    rewrite(here / "base", of_zeros)
    dora(torch.tensor([0.0] + [1.0] * 7)[:, None])
    recipe(here, merge_method="passthrough", models=[{"model": "./base+./lora"}])
    yield ("merge", "recipe.yaml", "out")
    replaced(here, "base", tensors_of(0))
    yield ("merge", "recipe.yaml", "out")


def an_adapter_on_an_adapter(here: Path) -> Iterator[Step]:
    lora(here, "one")
    lora(here, "two")
    recipe(here, models=[{"model": "./base+./one+./two"}, {"model": "./b"}])
    yield VERIFY
    recipe(here, models=[{"model": "./one"}, {"model": "./two"}])

    def merged_first() -> str:
        from flows.cli.program import run

        assert run(["adapter", "merge", "recipe.yaml", "both"]) == 0
        adapted(here, "both")
        assert run(["verify", "recipe.yaml"]) == 0
        return "merged"

    yield (merged_first,)


def a_base_alone_with_its_adapter(here: Path) -> Iterator[Step]:
    lora(here)
    on_base(here, base_model="./base+./lora", models=[])
    yield VERIFY
    recipe(here, merge_method="passthrough", models=[{"model": "./base+./lora"}])
    yield VERIFY


def a_side_that_leads_nowhere(here: Path) -> Iterator[Step]:
    lora(here)
    recipe(here, models=[{"model": "./base+./nowhere"}, {"model": "./b"}])
    yield VERIFY
    adapted(here)
    yield VERIFY


@pytest.mark.parametrize("situation", situations(globals()), ids=lambda each: each.__name__)
def test_adapter(situation: Situation, here: Path, mergeflow: Shell, advice: Advice) -> None:
    (here / "x.jsonl").write_text('{"text": "one"}\n' * 4)
    advice.follow(mergeflow, situation(here))
