"""PiSSA and OLoRA take an adapter's start out of its base; so do we, as PEFT does on loading it.

The right weights are PEFT's own: the adapter loaded onto its base again, and merged.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flows.cli import program
from merge_core.checkpoints.adapters import residual
from merge_core.checkpoints.sources import describe_adapter, open_source, with_adapter
from merge_core.errors import CheckpointError, CompatibilityError
from merge_core.files.digests import DigestMemo
from merge_core.tensors.block_reader import BlockReader
from merge_core.tensors.inputs import values_of
from tests.support.adapters import random_factors, write_adapter
from tests.support.checkpoints import write_checkpoint
from tests.support.tiny_llama import described
from tests.support.trained_adapters import MODULE, TARGETS, applied, base_model, peft, trained


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": "OLoRA", "lora_alpha": 3},
        {"init_lora_weights": "pissa", "use_rslora": True, "alpha_pattern": {"q_proj": 3}},
        {"init_lora_weights": "olora", "rank_pattern": {"up_proj": 2}},
        {"init_lora_weights": "pissa", "r": 16},
        {"init_lora_weights": "pissa", "target_modules": ["down_proj", "lm_head", "embed_tokens"]},
        {"init_lora_weights": "pissa", "use_dora": True},
        {"init_lora_weights": "olora", "use_dora": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_start_that_was_taken_out_of_the_base_is_taken_out_as_peft_does_on_reload(
    tmp_path: Path, settings: dict[str, Any], dtype: torch.dtype
) -> None:
    from transformers import AutoModelForCausalLM

    model = base_model().to(dtype)
    model.save_pretrained(tmp_path / "base")
    adapted = trained(copy.deepcopy(model), **settings)
    adapted.save_pretrained(tmp_path / "lora")
    ours = applied(tmp_path / "base", tmp_path / "lora", tmp_path / "out")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=dtype)
    reloaded = peft.PeftModel.from_pretrained(base, tmp_path / "lora").merge_and_unload()
    theirs = reloaded.state_dict()
    close = (1e-5, 2e-6) if dtype == torch.float32 else (1e-2, 1e-3)  # one rounding of bfloat16
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=close[0], atol=close[1])
    plain = model.state_dict()
    assert any(not torch.equal(tensor, plain[name]) for name, tensor in ours.items())


@pytest.mark.parametrize("start", ["pissa", "olora"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_taken_out_is_exact(tmp_path: Path, start: str, dtype: torch.dtype) -> None:
    """By full decompositions in float64, written here, rounded where the engine rounds."""
    model = base_model().to(dtype)
    model.save_pretrained(tmp_path / "base")
    # More rows than columns, and fewer; more than one block of rows.
    shapes = {"layers.0.mlp.up_proj": (24, 16), "layers.0.mlp.down_proj": (16, 24)}
    modules = {f"model.{name}": shape for name, shape in shapes.items()}
    factors = random_factors(modules, 3, dtype=dtype)
    lora = write_adapter(tmp_path / "lora", factors, init_lora_weights=start, lora_alpha=6)
    ours = applied(tmp_path / "base", lora, tmp_path / "out")
    for module, (a, b) in factors.items():
        weight = model.state_dict()[f"{module}.weight"].double().numpy()
        if start == "pissa":
            left, sizes, right = np.linalg.svd(weight)
            taken = left[:, :3] * sizes[:3] @ right[:3]
        else:
            q, r = np.linalg.qr(weight)
            taken = 2.0 * q[:, :3] @ r[:3]
        residual = torch.from_numpy(weight - taken).to(dtype).double()
        expected = (residual + 2.0 * b.double() @ a.double()).to(dtype)
        assert torch.equal(ours[f"{module}.weight"], expected)


def test_the_bits_depend_on_no_block_and_no_thread(tmp_path: Path) -> None:
    torch.manual_seed(1)
    name = "model.layers.0.mlp.up_proj"
    tensors = {f"{name}.weight": torch.randn(1100, 70)}
    write_checkpoint(tmp_path / "base", tensors)
    factors = random_factors({name: (1100, 70)}, 4)
    adapter = write_adapter(tmp_path / "lora", factors, init_lora_weights="pissa", lora_alpha=8)
    memo = DigestMemo(None)
    source = with_adapter(
        "one", described(tmp_path / "base"), describe_adapter("lora", adapter, memo)
    )
    made = open_source(source).tensors[f"{name}.weight"]

    def read(size: int) -> torch.Tensor:
        residual._MEMORY._found.clear()
        values = values_of(made, BlockReader())
        starts = range(0, made.numel, size)
        return torch.cat([values(at, min(size, made.numel - at)).clone() for at in starts])

    whole = read(made.numel)
    assert torch.equal(read(7001), whole)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert torch.equal(read(33), whole)
    finally:
        torch.set_num_threads(before)


def test_what_rounding_would_decide_is_refused_and_the_mend_is_the_conversion(
    tmp_path: Path,
) -> None:
    name = "model.layers.0.mlp.up_proj"
    alike = torch.eye(8)
    alike[0, 0] = 3.0  # of the other seven directions none is the second
    dependent = torch.ones(8, 8)
    for start, weight, message in (
        ("pissa", alike, "singular values 2 and 3 of this weight are equal"),
        ("olora", dependent, "first 2 columns of this weight depend on each other"),
    ):
        write_checkpoint(tmp_path / f"{start} base", {f"{name}.weight": weight})
        factors = random_factors({name: (8, 8)}, 2)
        lora = write_adapter(tmp_path / f"{start} lora", factors, init_lora_weights=start)
        with pytest.raises(CompatibilityError, match=message) as caught:
            applied(tmp_path / f"{start} base", lora, tmp_path / f"{start} out")
        assert "path_initial_model_for_weight_conversion" in str(caught.value.mend)
        # The conversion: the factors of the start, taken away, beside those of the adapter.
        beside = {
            module: (torch.cat([a, torch.ones(2, 8)]), torch.cat([b, -torch.ones(8, 2)], dim=1))
            for module, (a, b) in factors.items()
        }
        converted = write_adapter(tmp_path / f"{start} converted", beside)
        ours = applied(tmp_path / f"{start} base", converted, tmp_path / f"{start} out")
        assert not torch.equal(ours[f"{name}.weight"], weight)


@pytest.mark.slow
def test_a_start_that_peft_draws_anew_is_refused_and_the_mend_works(tmp_path: Path) -> None:
    start = "pissa_niter_4"
    model = base_model()
    model.save_pretrained(tmp_path / "base")
    adapted = trained(copy.deepcopy(model), init_lora_weights=start)
    adapted.save_pretrained(tmp_path / "lora")
    loads = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        loaded = peft.PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "lora")
        loads.append(loaded.merge_and_unload().state_dict()[f"{MODULE}.weight"])
    assert not torch.allclose(*loads, atol=1e-3), "PEFT's own reload is no one weight"
    with pytest.raises(CheckpointError, match="begins at random") as caught:
        applied(tmp_path / "base", tmp_path / "lora", tmp_path / "out")
    assert "path_initial_model_for_weight_conversion" in str(caught.value.mend)
    torch.manual_seed(5)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": TARGETS}
    fresh = peft.get_peft_model(
        copy.deepcopy(model), peft.LoraConfig(**settings, init_lora_weights=start)
    )
    fresh.peft_config["default"].init_lora_weights = True
    fresh.save_pretrained(tmp_path / "initial")
    again = trained(copy.deepcopy(model), init_lora_weights=start)
    right = {name: tensor.clone() for name, tensor in again.state_dict().items()}
    again.save_pretrained(
        tmp_path / "converted",
        path_initial_model_for_weight_conversion=str(tmp_path / "initial"),
    )
    ours = applied(tmp_path / "base", tmp_path / "converted", tmp_path / "mended")
    prefix = f"base_model.model.{MODULE}"
    expected = right[f"{prefix}.base_layer.weight"] + 2.0 * (
        right[f"{prefix}.lora_B.default.weight"] @ right[f"{prefix}.lora_A.default.weight"]
    )
    torch.testing.assert_close(ours[f"{MODULE}.weight"], expected, rtol=1e-4, atol=1e-5)


def test_layers_stored_in_out_are_taken_apart_as_peft_does(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(2)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=48, n_embd=16, n_layer=2, n_head=2))
    model.save_pretrained(tmp_path / "base")
    targets = {"target_modules": ["c_attn", "mlp.c_proj"], "fan_in_fan_out": True}
    adapted = trained(copy.deepcopy(model), init_lora_weights="pissa", **targets)
    adapted.save_pretrained(tmp_path / "lora")
    ours = applied(tmp_path / "base", tmp_path / "lora", tmp_path / "out")
    reloaded = peft.PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "lora")
    theirs = reloaded.merge_and_unload().state_dict()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-5, atol=1e-6)
    # PEFT's OLoRA does not turn such a layer round: only a square one could even be loaded.
    olora = dict.fromkeys(("transformer.h.0.attn.c_proj",), (16, 16))
    lora = write_adapter(tmp_path / "olora", random_factors(olora, 4), init_lora_weights="olora")
    with pytest.raises(CompatibilityError, match="for which OLoRA is not supported"):
        applied(tmp_path / "base", lora, tmp_path / "second")


@pytest.mark.slow
def test_factors_alone_are_not_merged_and_the_extract_that_is_advised_is_exact(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = base_model()
    model.save_pretrained("base")
    trained(copy.deepcopy(model), init_lora_weights="pissa").save_pretrained("lora")
    Path("r.yaml").write_text("merge_method: linear\nmodels: [{model: ./lora}]\n")
    assert program.run(["adapter", "merge", "r.yaml", "both"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "mergeflow adapter extract BASE BASE+ADAPTER OUT --rank 8" in said
    assert program.run(["adapter", "extract", "base", "base+lora", "plain", "--rank", "8"]) == 0
    assert "relative error of the whole task vector 0.00%" in capsys.readouterr().out
    Path("r.yaml").write_text("merge_method: linear\nmodels: [{model: ./plain}]\n")
    assert program.run(["adapter", "merge", "r.yaml", "both"]) == 0
    ours = applied(tmp_path / "base", tmp_path / "both", tmp_path / "out")
    right = applied(tmp_path / "base", tmp_path / "lora", tmp_path / "other")
    for name, tensor in right.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-5, atol=1e-6)
