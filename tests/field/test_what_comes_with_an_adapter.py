"""What comes with an adapter beside its factors: a place, a tokenizer, a head of its own.

An adapter of a part of its base does not say of which part; trainers put the tokenizer that they
extended beside the factors; and an adapter may make two tensors of a head that was a copy.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from merge_core.checkpoints.adapters.config import read_adapter_config
from merge_core.checkpoints.sources import describe_adapter, with_adapter
from merge_core.errors import CheckpointError, CompatibilityError
from merge_core.files.digests import DigestMemo
from merge_core.verification.verify import verify, verify_key
from tests.support.adapters import random_factors, write_adapter
from tests.support.checkpoints import run_recipe, write_checkpoint
from tests.support.tiny_llama import base_weights, described, tokenizer_json, write_llama

MODULE = "encoder.layers.0.self_attn.q_proj"
TEXT, VISION = f"text_model.{MODULE}.weight", f"vision_model.{MODULE}.weight"
EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def towers(root: Path, text: int = 8, vision: int = 8) -> Path:
    """A model of two towers, of these widths."""
    generator = torch.Generator().manual_seed(1)
    widths = {TEXT: text, VISION: vision}
    tensors = {name: torch.randn(n, n, generator=generator) for name, n in widths.items()}
    write_checkpoint(root / "base", tensors)
    return root / "base"


def applied(root: Path, adapter: Path, out: str = "out") -> dict[str, torch.Tensor]:
    source = with_adapter(
        "one", described(root / "base"), describe_adapter("lora", adapter, DigestMemo(None))
    )
    recipe = {"merge_method": "passthrough", "models": [{"model": "one"}]}
    run_recipe(recipe, {"one": source}, root / out)
    return load_file(root / out / "model.safetensors")


def test_an_adapter_that_two_towers_could_have_is_refused_until_it_names_one(
    tmp_path: Path,
) -> None:
    before = load_file(towers(tmp_path) / "model.safetensors")
    factors = random_factors({MODULE: (8, 8)}, 2)
    inner = write_adapter(tmp_path / "inner", factors)
    with pytest.raises(CompatibilityError, match=f"may be {TEXT} or {VISION}") as raised:
        applied(tmp_path, inner)
    assert "put text_model. or vision_model. after base_model.model." in str(raised.value.mend)
    named = write_adapter(tmp_path / "named", {f"vision_model.{MODULE}": factors[MODULE]})
    after = applied(tmp_path, named)
    a, b = (factor.numpy() for factor in factors[MODULE])
    right = before[VISION].numpy().astype(np.float64) + b.astype(np.float64) @ a
    np.testing.assert_allclose(after[VISION].numpy(), right, atol=1e-6)
    assert torch.equal(after[TEXT], before[TEXT])


def test_the_tower_whose_shapes_fit_is_meant(tmp_path: Path) -> None:
    before = load_file(towers(tmp_path, text=8, vision=12) / "model.safetensors")
    lora = write_adapter(tmp_path / "lora", random_factors({MODULE: (12, 12)}, 2))
    after = applied(tmp_path, lora)
    assert torch.equal(after[TEXT], before[TEXT])
    assert not torch.equal(after[VISION], before[VISION])


def copied_head(root: Path, **config: Any) -> Path:
    weights = base_weights()
    weights[HEAD] = weights[EMBEDDINGS].clone()
    write_llama(root / "base", weights, config={"tie_word_embeddings": True, **config})
    return root / "base"


@pytest.mark.parametrize("changed", ["head", "embeddings", "each apart"])
def test_a_head_that_was_a_copy_is_said_to_be_one_no_longer(changed: str, tmp_path: Path) -> None:
    """Libraries that go by the config alone would drop it."""
    copied_head(tmp_path, text_config={"vocab_size": 32})
    weights = base_weights()
    saved = {
        f"base_model.model.{name}": weights[EMBEDDINGS] + 1 + index
        for index, name in enumerate((EMBEDDINGS, HEAD))
        if changed == "each apart" or (name == HEAD) == (changed == "head")
    }
    write_adapter(tmp_path / "lora", {}, tensors=saved)
    after = applied(tmp_path, tmp_path / "lora")
    assert not torch.equal(after[HEAD], after[EMBEDDINGS])
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["tie_word_embeddings"] is False
    assert config["text_config"]["tie_word_embeddings"] is False


def test_a_head_that_stays_a_copy_is_still_said_to_be_one(tmp_path: Path) -> None:
    copied_head(tmp_path)
    write_adapter(
        tmp_path / "lora", random_factors({"model.layers.0.self_attn.q_proj": (16, 16)}, 2)
    )
    after = applied(tmp_path, tmp_path / "lora")
    assert torch.equal(after[HEAD], after[EMBEDDINGS])
    assert json.loads((tmp_path / "out/config.json").read_text())["tie_word_embeddings"] is True


@pytest.mark.slow
@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_a_parted_head_computes_what_peft_computes(target: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from tests.support.trained_adapters import base_model, trained

    model = base_model(tie_word_embeddings=True).eval()
    model.save_pretrained(tmp_path / "base")
    file = tmp_path / "base/model.safetensors"
    tensors = load_file(file)
    tensors[HEAD] = tensors[EMBEDDINGS].clone()
    save_file(tensors, file, metadata={"format": "pt"})
    trained(
        type(model).from_pretrained(tmp_path / "base"), target_modules=[target]
    ).save_pretrained(tmp_path / "lora")
    applied(tmp_path, tmp_path / "lora")
    tokens = torch.arange(3, 23)[None]
    own = type(model).from_pretrained(tmp_path / "base")
    right = peft.PeftModel.from_pretrained(own, tmp_path / "lora").eval()(tokens).logits
    found = type(model).from_pretrained(tmp_path / "out").eval()(tokens).logits
    assert (right - found).abs().max().item() < 1e-5
    assert (right - model(tokens).logits).abs().max().item() > 1e-3


def with_tokenizer(root: Path, *, added: bool, template: str | None, eos: str | None) -> str:
    """What verify says of a base with an adapter that has a tokenizer beside it."""
    write_llama(root / "base", base_weights())
    lora = write_adapter(
        root / "lora", random_factors({"model.layers.0.self_attn.q_proj": (16, 16)}, 2)
    )
    content = tokenizer_json()
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    if added:
        content["added_tokens"].append(
            {"id": 20, "content": "<|im_start|>", "special": True, **flags}
        )
    (lora / "tokenizer.json").write_text(json.dumps(content))
    if template is not None:
        (lora / "chat_template.jinja").write_text(template)
    if eos is not None:
        (lora / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos}))
    source = with_adapter(
        "one", described(root / "base"), describe_adapter("lora", lora, DigestMemo(None))
    )
    report = verify(None, [source], scan_weights=False)
    assert report.ok
    return "\n".join(str(each) for each in report.findings)


def test_a_tokenizer_that_an_adapter_brings_is_told_of(tmp_path: Path) -> None:
    said = with_tokenizer(tmp_path, added=True, template="other", eos="<|im_start|>")
    for part in (
        "1 token that the base lacks: '<|im_start|>' (id 20)",
        "another chat template",
        "'<|im_start|>' as its eos token, the base '</s>'",
        "write COPY+lora",
    ):
        assert part in said


def test_a_tokenizer_like_the_bases_is_no_matter(tmp_path: Path) -> None:
    assert "tokenizer" not in with_tokenizer(tmp_path, added=False, template=None, eos="</s>")


def test_a_report_is_made_anew_when_the_adapters_tokenizer_changes(tmp_path: Path) -> None:
    with_tokenizer(tmp_path, added=False, template=None, eos=None)
    source = with_adapter(
        "one",
        described(tmp_path / "base"),
        describe_adapter("lora", tmp_path / "lora", DigestMemo(None)),
    )
    before = verify_key(None, [source])
    (tmp_path / "lora/chat_template.jinja").write_text("other")
    assert verify_key(None, [source]) != before


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"alora_invocation_tokens": [3]}, "leave it out: no weights can hold what it does"),
        ({"use_qalora": True}, "PEFT cannot merge it either"),
        ({"peft_type": "PREFIX_TUNING"}, "PEFT cannot merge it either"),
        ({"peft_type": "LOHA"}, r"with PEFT \(merge_and_unload\)"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "stack the layers of its base"),
    ],
)
def test_nobody_is_sent_to_peft_for_what_it_cannot_merge(
    settings: dict[str, Any], told: str, tmp_path: Path
) -> None:
    lora = write_adapter(tmp_path / "lora", random_factors({MODULE: (8, 8)}, 2), **settings)
    with pytest.raises(CheckpointError, match=told):
        read_adapter_config(lora)
