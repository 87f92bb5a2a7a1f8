"""Adapters are read strictly: what would be applied wrong, or not at all, is refused by name."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from merge_core.checkpoints.adapters import Adapter, open_adapter
from merge_core.checkpoints.adapters.fitting import fit
from merge_core.checkpoints.checkpoint import Checkpoint, open_checkpoint
from merge_core.errors import CheckpointError, CompatibilityError
from tests.support.adapters import random_factors, write_adapter
from tests.support.checkpoints import write_checkpoint

Q, K = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.k_proj"
MODULES = {Q: (12, 8), K: (6, 8)}


def adapter(directory: Path, rank: int | dict[str, int] = 3, **settings: Any) -> Adapter:
    return open_adapter(write_adapter(directory, random_factors(MODULES, rank), **settings))


def base(
    directory: Path, tensors: dict[str, torch.Tensor] | None = None, **config: Any
) -> Checkpoint:
    weights = {f"{name}.weight": torch.randn(shape) for name, shape in MODULES.items()}
    write_checkpoint(directory, weights if tensors is None else tensors)
    (directory / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    return open_checkpoint(directory)


def pair_of(read: Adapter, module: str) -> Any:
    return next(pair for pair in read.pairs if pair.module == module)


def test_alpha_over_rank_is_the_scaling(tmp_path: Path) -> None:
    read = adapter(tmp_path / "a", lora_alpha=12)
    assert [pair.scaling for pair in read.pairs] == [4.0, 4.0]


def test_a_rank_stabilised_lora_divides_by_the_root_of_its_rank(tmp_path: Path) -> None:
    read = adapter(tmp_path / "a", lora_alpha=12, use_rslora=True)
    assert read.pairs[0].scaling == pytest.approx(12 / math.sqrt(3), rel=1e-15)


@pytest.mark.parametrize(
    "pattern",
    [K, "self_attn.k_proj", "k_proj", r"layers\.1\..*", "^" + K, r"model.layers.(1|2).+k_proj"],
)
def test_a_rank_pattern_matches_a_name_or_what_follows_a_dot(tmp_path: Path, pattern: str) -> None:
    read = adapter(
        tmp_path / "a", {Q: 3, K: 5}, r=3, rank_pattern={pattern: 5}, alpha_pattern={pattern: 20}
    )
    assert pair_of(read, K).scaling == 4.0
    assert pair_of(read, Q).scaling == 5 / 3


@pytest.mark.parametrize("pattern", ["_proj", "layers.1", "proj.*", "self_attn", "^k_proj"])
def test_a_pattern_that_matches_only_a_part_of_the_name_does_not_count(
    tmp_path: Path, pattern: str
) -> None:
    read = adapter(tmp_path / "a", 3, lora_alpha=3, alpha_pattern={pattern: 99})
    assert [pair.scaling for pair in read.pairs] == [1.0, 1.0]


def test_the_first_pattern_that_matches_counts(tmp_path: Path) -> None:
    read = adapter(tmp_path / "a", 3, lora_alpha=3, alpha_pattern={"k_proj": 6, K: 9})
    assert pair_of(read, K).scaling == 2.0


def test_a_name_that_is_no_pattern_of_itself_is_refused_beside_a_pattern(tmp_path: Path) -> None:
    """PEFT looks through the patterns first, and then for the name; we took what came first."""
    name = "model.experts.w+.q_proj"
    patterns = {name: 9, "q_proj": 6}
    factors = random_factors({name: (12, 8)}, 3)
    with pytest.raises(CheckpointError, match="a pattern that matches this module, too"):
        open_adapter(write_adapter(tmp_path / "a", factors, alpha_pattern=patterns))
    read = open_adapter(write_adapter(tmp_path / "b", factors, alpha_pattern={name: 9}))
    assert pair_of(read, name).scaling == 3.0


def test_names_with_the_adapters_name_in_them_are_read(tmp_path: Path) -> None:
    a, b = random_factors({Q: (12, 8)}, 3)[Q]
    tensors = {
        f"base_model.model.{Q}.lora_A.default.weight": a,
        f"base_model.model.{Q}.lora_B.default.weight": b,
    }
    read = open_adapter(write_adapter(tmp_path / "a", {}, tensors=tensors, r=3))
    assert [pair.module for pair in read.pairs] == [Q]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; only LORA"),
        ({"peft_type": None}, "it has no peft_type"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"lora_bias": True}, "lora_bias is set"),
        ({"layer_replication": [[0, 4], [2, 5]]}, "repeats layers"),
        ({"trainable_token_indices": [5]}, "trains single tokens"),
        ({"target_parameters": ["experts.gate_up_proj"]}, "target_parameters is set"),
        ({"use_qalora": True}, "QALoRA"),
        ({"alora_invocation_tokens": [1, 2]}, "activated LoRA"),
        ({"r": 0}, "r must be a whole number"),
        ({"r": True}, "r must be a whole number"),
        ({"r": 4}, "rank 3 and 3, adapter_config.json says 4"),
        ({"lora_alpha": "16"}, "lora_alpha must be a finite number"),
        ({"lora_alpha": float("nan")}, "lora_alpha must be a finite number"),
        ({"use_rslora": "yes"}, "use_rslora must be true or false"),
        ({"rank_pattern": ["q_proj"]}, "rank_pattern must be a map"),
        ({"rank_pattern": {"q_proj": "8"}}, "must be a whole number"),
        ({"rank_pattern": {"(": 8}}, "regular expressions"),
        ({"rank_pattern": {"(a+)+": 8}}, "simple patterns"),
        ({"alpha_pattern": {".*.*.*.*.*.*x": 8}}, "simple patterns"),
        ({"alpha_pattern": {"x" * 600: 8}}, "simple patterns"),
        ({"use_dora": True}, "has no magnitude vector"),
    ],
)
def test_a_setting_that_would_be_applied_wrong_is_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        adapter(tmp_path / "a", **settings)
    assert message in str(caught.value)
    assert caught.value.mend


def test_a_config_that_is_no_json_or_has_no_end_is_refused(tmp_path: Path) -> None:
    directory = write_adapter(tmp_path / "a", random_factors(MODULES, 3))
    for text in ("{", "[]", '{"peft_type": ' * 2000 + "1" + "}" * 2000):
        (directory / "adapter_config.json").write_text(text)
        with pytest.raises(CheckpointError):
            open_adapter(directory)


def test_a_directory_without_config_or_weights_is_no_adapter(tmp_path: Path) -> None:
    directory = write_adapter(tmp_path / "a", random_factors(MODULES, 3))
    (directory / "adapter_model.safetensors").rename(directory / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="is a pickle"):
        open_adapter(directory)
    (directory / "adapter_model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"has no adapter_model\.safetensors"):
        open_adapter(directory)
    (directory / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match="no LoRA adapter"):
        open_adapter(directory)


def test_weights_that_are_a_link_out_of_the_directory_are_refused(tmp_path: Path) -> None:
    directory = write_adapter(tmp_path / "a", random_factors(MODULES, 3))
    outside = tmp_path / "elsewhere.safetensors"
    (directory / "adapter_model.safetensors").rename(outside)
    (directory / "adapter_model.safetensors").symlink_to(outside)
    with pytest.raises(CheckpointError, match="leaves the checkpoint's directory"):
        open_adapter(directory)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    directory = write_adapter(tmp_path / "a", random_factors(MODULES, 3))
    path = directory / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="truncated"):
        open_adapter(directory)


PREFIX = f"base_model.model.{Q}"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({f"{PREFIX}.lora_A.weight": torch.ones(3, 8)}, "has lora_A without partner"),
        ({f"{PREFIX}.lora_B.weight": torch.ones(12, 3)}, "has lora_B without partner"),
        (
            {
                f"{PREFIX}.lora_A.weight": torch.ones(3, 8),
                f"{PREFIX}.lora_embedding_B": torch.ones(8, 3),
            },
            "without partner",
        ),
        (
            {
                f"{PREFIX}.lora_A.weight": torch.ones(3, 8),
                f"{PREFIX}.lora_A.other.weight": torch.ones(3, 8),
            },
            "is there twice",
        ),
        (
            {
                f"{PREFIX}.lora_A.weight": torch.ones(3, 8, 1, 1),
                f"{PREFIX}.lora_B.weight": torch.ones(12, 3, 1, 1),
            },
            "not of convolutions",
        ),
        (
            {
                f"{PREFIX}.lora_A.weight": torch.ones(3, 8, dtype=torch.int32),
                f"{PREFIX}.lora_B.weight": torch.ones(12, 3),
            },
            "not floats",
        ),
        (
            {
                f"{PREFIX}.lora_A.weight": torch.ones(3, 8),
                f"{PREFIX}.lora_B.weight": torch.ones(12, 3),
                f"{PREFIX}.lora_magnitude_vector": torch.ones(12),
            },
            "has a magnitude vector, use_dora is false",
        ),
        ({f"{PREFIX}.lora_E": torch.ones(3, 1)}, "a variant that is not supported"),
        ({}, "holds no tensors"),
    ],
)
def test_tensors_that_make_no_pairs_are_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor], message: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_adapter(write_adapter(tmp_path / "a", {}, tensors=tensors, r=3))
    assert message in str(caught.value)


def test_every_pair_that_finds_no_weight_is_named(tmp_path: Path) -> None:
    found = base(tmp_path / "base", {f"{Q}.weight": torch.ones(12, 8)})
    with pytest.raises(CompatibilityError) as caught:
        fit(adapter(tmp_path / "a"), found)
    assert f"1 of the 2 tensors that this adapter changes are not in {found.directory}" in str(
        caught.value
    )
    assert f"{K}.weight" in str(caught.value)
    assert "some/base" in str(caught.value.mend)


def test_a_pair_of_another_shape_is_refused(tmp_path: Path) -> None:
    tensors = {f"{Q}.weight": torch.ones(12, 8), f"{K}.weight": torch.ones(7, 8)}
    with pytest.raises(
        CompatibilityError, match=r"its factors make \[6, 8\], in .* it is \[7, 8\]"
    ):
        fit(adapter(tmp_path / "a"), base(tmp_path / "base", tensors))


def test_a_quantised_base_is_refused_by_its_dtype(tmp_path: Path) -> None:
    packed = {f"{name}.weight": torch.ones(shape).to(torch.int8) for name, shape in MODULES.items()}
    with pytest.raises(CompatibilityError, match=r"is int8: nothing can be added"):
        fit(adapter(tmp_path / "a"), base(tmp_path / "base", packed))


def test_an_embedding_of_another_shape_is_refused(tmp_path: Path) -> None:
    tensors = {
        "base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(2, 8),
        "base_model.model.model.embed_tokens.lora_embedding_B": torch.ones(32, 2),
    }
    read = open_adapter(write_adapter(tmp_path / "a", {}, tensors=tensors, r=2))
    found = base(tmp_path / "base", {"model.embed_tokens.weight": torch.ones(32, 8)})
    with pytest.raises(CompatibilityError, match=r"make \[8, 32\], in .* it is \[32, 8\]"):
        fit(read, found)


@pytest.mark.parametrize(
    ("modules", "tensors"),
    [
        ("transformer.h.0.attn.q", "h.0.attn.q.weight"),
        ("h.0.attn.q", "transformer.h.0.attn.q.weight"),
        ("model.language_model.layers.0.q", "language_model.model.layers.0.q.weight"),
        ("language_model.model.layers.0.q", "model.language_model.layers.0.q.weight"),
        ("model.language_model.layers.0.q", "model.layers.0.q.weight"),
        ("model.visual.blocks.0.q", "visual.blocks.0.q.weight"),
    ],
)
def test_names_are_found_under_the_prefixes_that_transformers_produces(
    tmp_path: Path, modules: str, tensors: str
) -> None:
    found = base(tmp_path / "base", {tensors: torch.ones(12, 8)})
    read = open_adapter(write_adapter(tmp_path / "a", random_factors({modules: (12, 8)}, 3)))
    assert list(fit(read, found).fits) == [tensors]


def test_all_modules_must_follow_one_renaming(tmp_path: Path) -> None:
    found = base(
        tmp_path / "base", {"h.0.q.weight": torch.ones(12, 8), "x.q.weight": torch.ones(12, 8)}
    )
    modules = {"transformer.h.0.q": (12, 8), "y.q": (12, 8)}
    read = open_adapter(write_adapter(tmp_path / "a", random_factors(modules, 3)))
    with pytest.raises(CompatibilityError, match=r"1 of the 2 tensors.*y\.q\.weight"):
        fit(read, found)


def test_two_modules_cannot_fall_on_one_weight(tmp_path: Path) -> None:
    found = base(tmp_path / "base", {"h.0.q.weight": torch.ones(12, 8)})
    modules = {"transformer.h.0.q": (12, 8), "h.0.q": (12, 8)}
    read = open_adapter(write_adapter(tmp_path / "a", random_factors(modules, 3)))
    with pytest.raises(CompatibilityError, match=r"1 of the 2 tensors"):
        fit(read, found)


def test_embeddings_that_are_also_the_head_are_changed_only_together(tmp_path: Path) -> None:
    name = "model.embed_tokens"
    found = base(
        tmp_path / "base",
        {f"{name}.weight": torch.ones(32, 8)},
        vocab_size=32,
        tie_word_embeddings=True,
    )
    tensors = {
        f"base_model.model.{name}.lora_embedding_A": torch.ones(2, 32),
        f"base_model.model.{name}.lora_embedding_B": torch.ones(8, 2),
    }
    apart = open_adapter(write_adapter(tmp_path / "a", {}, tensors=tensors, r=2))
    with pytest.raises(CompatibilityError, match="one tensor for embeddings and output head"):
        fit(apart, found)
    together = open_adapter(
        write_adapter(tmp_path / "b", {}, tensors=tensors, r=2, ensure_weight_tying=True)
    )
    assert list(fit(together, found).fits) == [f"{name}.weight"]


def test_a_head_that_the_base_does_not_store_cannot_be_adapted_alone(tmp_path: Path) -> None:
    found = base(
        tmp_path / "base",
        {"model.embed_tokens.weight": torch.ones(32, 8)},
        vocab_size=32,
        architectures=["LlamaForCausalLM"],
        tie_word_embeddings=True,
    )
    read = open_adapter(write_adapter(tmp_path / "a", random_factors({"lm_head": (32, 8)}, 2)))
    with pytest.raises(CompatibilityError, match="one tensor for embeddings and output head"):
        fit(read, found)


def test_a_resized_vocabulary_is_refused(tmp_path: Path) -> None:
    found = base(tmp_path / "base", {"lm_head.weight": torch.ones(32, 8)})
    tensors = {"base_model.model.lm_head.weight": torch.ones(33, 8)}
    read = open_adapter(write_adapter(tmp_path / "a", {}, tensors=tensors))
    with pytest.raises(CompatibilityError, match=r"lm_head.weight has 33 rows here and 32 in"):
        fit(read, found)
