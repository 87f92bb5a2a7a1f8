"""PEFT itself as the judge: its adapters are applied as it applies them, ours it loads and runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from merge_core.checkpoints.sources import describe_adapter, describe_source, open_source
from merge_core.files.digests import DigestMemo
from merge_core.operations.adapters.extract import ExtractOptions, extract_adapter
from merge_core.operations.adapters.merge import merge_adapters
from merge_core.recipes.loading import parse_recipe
from merge_core.records import SourceCheckpoint
from tests.conformance.test_adapters import applied, read_all

pytestmark = pytest.mark.filterwarnings("ignore")
TOKENS = torch.arange(24).view(2, 12) % 60


def llama(tied: bool = False) -> Any:
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    return transformers.LlamaForCausalLM(config)


def gpt2() -> Any:
    config = transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=32)
    return transformers.GPT2LMHeadModel(config)


def saved(model: Any, directory: Path) -> SourceCheckpoint:
    model.save_pretrained(directory)
    return describe_source(directory.name, directory, DigestMemo(None))


def trained(base: Path, out: Path, seed: int, **settings: Any) -> Path:
    """An adapter that PEFT made and saved, as if after training."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **settings))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter += 0.2 * noise
    wrapped.save_pretrained(out)
    return out


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model.eval()(TOKENS).logits


def with_peft(base: Path, adapter: Path) -> torch.Tensor:
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    return logits(peft.PeftModel.from_pretrained(model, adapter))


def ours(base: SourceCheckpoint, adapter: Path) -> torch.Tensor:
    """Logits of the base with the adapter as it is applied here."""
    tensors = open_source(applied(base, adapter)).tensors
    state = {name: read_all(tensor).float() for name, tensor in tensors.items()}
    model = transformers.AutoModelForCausalLM.from_pretrained(base.path)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    model.tie_weights()
    return logits(model)


def assert_same(found: torch.Tensor, wanted: torch.Tensor) -> None:
    scale = float(wanted.abs().max())
    assert float((found - wanted).abs().max()) < 1e-4 * scale


LLAMA_CASES: dict[str, dict[str, Any]] = {
    "alpha is not r": {"r": 4, "lora_alpha": 10, "target_modules": ["q_proj", "v_proj"]},
    "all linear": {"r": 2, "lora_alpha": 3, "target_modules": "all-linear"},
    "rslora": {"r": 4, "lora_alpha": 8, "use_rslora": True, "target_modules": ["down_proj"]},
    "patterns": {
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj", "k_proj", "up_proj"],
        "rank_pattern": {"layers.1.self_attn.q_proj": 6, r".*\.up_proj": 3},
        "alpha_pattern": {"k_proj": 11, r"^model\.layers\.0\..*up_proj": 5},
    },
    "patterns that overlap, the narrow one first": {
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj", "k_proj"],
        "rank_pattern": {"1.self_attn.q_proj": 6, "q_proj": 3},
        "alpha_pattern": {"1.self_attn.q_proj": 5, "q_proj": 11, r"self_attn\.._proj": 7},
    },
    "patterns that overlap, the wide one first": {
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj", "k_proj"],
        "rank_pattern": {".*q_proj": 3, "1.self_attn.q_proj": 3},
        "alpha_pattern": {".*_proj": 7, "1.self_attn.q_proj": 5, "q_proj": 11},
    },
    "patterns and rslora": {
        "r": 2,
        "lora_alpha": 4,
        "use_rslora": True,
        "target_modules": ["q_proj"],
        "rank_pattern": {"1.self_attn.q_proj": 5},
    },
    "modules to save": {
        "r": 2,
        "target_modules": ["q_proj"],
        "modules_to_save": ["lm_head", "norm"],
    },
    "embeddings and head": {"r": 3, "target_modules": ["embed_tokens", "lm_head", "o_proj"]},
    "dora": {"r": 3, "lora_alpha": 5, "use_dora": True, "target_modules": ["q_proj", "up_proj"]},
}


@pytest.mark.parametrize("case", LLAMA_CASES)
def test_an_applied_adapter_gives_the_logits_that_peft_gives(tmp_path: Path, case: str) -> None:
    base = saved(llama(), tmp_path / "base")
    adapter = trained(tmp_path / "base", tmp_path / "lora", 1, **LLAMA_CASES[case])
    wanted = with_peft(tmp_path / "base", adapter)
    assert float((wanted - logits_of(tmp_path / "base")).abs().max()) > 0.01
    assert_same(ours(base, adapter), wanted)


def logits_of(directory: Path) -> torch.Tensor:
    return logits(transformers.AutoModelForCausalLM.from_pretrained(directory))


@pytest.mark.parametrize(
    "modules", [["c_attn"], ["c_attn", "c_proj", "c_fc"], ["c_proj", "wpe"]], ids=str
)
def test_gpt2s_transposed_layers_are_adapted_as_peft_does(
    tmp_path: Path, modules: list[str]
) -> None:
    base = saved(gpt2(), tmp_path / "base")
    adapter = trained(tmp_path / "base", tmp_path / "lora", 1, r=3, target_modules=modules)
    assert_same(ours(base, adapter), with_peft(tmp_path / "base", adapter))


def test_tied_embeddings_are_adapted_together_as_peft_does(tmp_path: Path) -> None:
    base = saved(llama(tied=True), tmp_path / "base")
    settings = {"r": 3, "target_modules": ["embed_tokens", "q_proj"], "ensure_weight_tying": True}
    adapter = trained(tmp_path / "base", tmp_path / "lora", 1, **settings)
    assert_same(ours(base, adapter), with_peft(tmp_path / "base", adapter))


@pytest.mark.parametrize("space", ["concat", "core"])
def test_peft_loads_a_merged_adapter_with_the_logits_of_the_dense_sum(
    tmp_path: Path, space: str
) -> None:
    saved(llama(), tmp_path / "base")
    base_weights = load_file(tmp_path / "base" / "model.safetensors")
    adapters = {
        "one": trained(
            tmp_path / "base", tmp_path / "one", 1, r=2, lora_alpha=5, target_modules=["q_proj"]
        ),
        "two": trained(
            tmp_path / "base",
            tmp_path / "two",
            2,
            r=3,
            use_rslora=True,
            target_modules=["q_proj", "up_proj", "embed_tokens"],
        ),
    }
    recipe = parse_recipe(
        {
            "merge_method": "task_arithmetic",
            "base_model": "base",
            "models": [
                {"model": "one", "parameters": {"weight": 0.6}},
                {"model": "two", "parameters": {"weight": 0.9}},
            ],
        }
    )
    described = {
        name: describe_adapter(name, path, DigestMemo(None)) for name, path in adapters.items()
    }
    merge_adapters(recipe, described, tmp_path / "merged", space=space)
    total = {name: tensor.double() for name, tensor in base_weights.items()}
    for weight, adapter in ((0.6, adapters["one"]), (0.9, adapters["two"])):
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        folded = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()
        for name, tensor in folded.state_dict().items():
            total[name] = total[name] + weight * (tensor.double() - base_weights[name].double())
    dense = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    dense.load_state_dict({name: tensor.float() for name, tensor in total.items()})
    assert_same(with_peft(tmp_path / "base", tmp_path / "merged"), logits(dense))


@pytest.mark.parametrize("make", [llama, gpt2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("include", [(), ("*embed_tokens*", "*wpe*", "*proj*", "*c_*")], ids=str)
def test_peft_loads_an_extracted_adapter_with_the_experts_logits(
    tmp_path: Path, make: Any, include: tuple[str, ...]
) -> None:
    model = make()
    base = saved(model, tmp_path / "base")
    expert = saved(disturbed(model, 0.002), tmp_path / "expert")
    if include:
        names = load_file(tmp_path / "base" / "model.safetensors")
        include = tuple(glob for glob in include if any(glob.strip("*") in name for name in names))
    options = ExtractOptions(rank=64, save_rest=True, include=include)
    manifest = extract_adapter(base, expert, tmp_path / "lora", options)
    assert manifest.error < 1e-9
    wanted = logits_of(tmp_path / "expert")
    assert float((wanted - logits_of(tmp_path / "base")).abs().max()) > 1e-3
    assert_same(with_peft(tmp_path / "base", tmp_path / "lora"), wanted)


def test_peft_loads_an_extract_of_a_model_with_tied_embeddings(tmp_path: Path) -> None:
    model = llama(tied=True)
    base = saved(model, tmp_path / "base")
    expert = saved(disturbed(model, 0.002), tmp_path / "expert")
    extract_adapter(base, expert, tmp_path / "lora", ExtractOptions(rank=64, save_rest=True))
    assert_same(with_peft(tmp_path / "base", tmp_path / "lora"), logits_of(tmp_path / "expert"))


def test_peft_finds_the_modules_of_a_checkpoint_saved_from_the_inner_model(tmp_path: Path) -> None:
    model = gpt2()
    saved(model, tmp_path / "base")
    saved(disturbed(model, 0.002), tmp_path / "expert")
    for name in ("base", "expert"):  # as the first GPT-2 was published
        path = tmp_path / name / "model.safetensors"
        tensors = {k.removeprefix("transformer."): v for k, v in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
    described = [describe_source(n, tmp_path / n, DigestMemo(None)) for n in ("base", "expert")]
    options = ExtractOptions(rank=64, save_rest=True)
    extract_adapter(*described, tmp_path / "lora", options)
    wanted = logits_of(tmp_path / "expert")
    assert_same(with_peft(tmp_path / "base", tmp_path / "lora"), wanted)
    view = open_source(applied(described[0], tmp_path / "lora"))
    tuned = load_file(tmp_path / "expert" / "model.safetensors")
    for name, tensor in view.tensors.items():
        assert float((read_all(tensor) - tuned[name].double()).abs().max()) < 1e-7


@torch.no_grad()
def disturbed(model: Any, scale: float) -> Any:
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if "bias" not in name:
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return model
