"""What is measured of a model: against float64 autograd and direct forward passes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from merge_core.methods.calibrated import gram_matrix, inputs_axis
from tasks.calibration.process import measure
from tasks.processes.model import Problem
from tests.support import tiny_architectures as tiny
from tests.support.adapters import random_factors, write_adapter
from tests.support.calibration import SAMPLES, job_of, letters, save_model

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[], Any]], Path]:
    root = tmp_path_factory.mktemp("models")
    return lambda make: save_model(root, make)


def measured(directory: Path, statistic: str, out: Path, **changes: Any) -> Tensors:
    messages: list[dict[str, Any]] = []
    measure(job_of(directory, statistic, out, **changes), messages.append)
    assert messages[-1] == {"done": len(SAMPLES), "total": len(SAMPLES)}
    return load_file(out / "model.safetensors")


def exact_model(directory: Path) -> Any:
    from transformers import AutoModelForCausalLM

    plain = {"attn_implementation": "eager", "experts_implementation": "eager"}
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64, **plain)
    return model.eval()


def tokens_of(directory: Path) -> list[tuple[torch.Tensor, int]]:
    """Ids of each sample and how many of the last of them count, by the tokenizer's own file."""
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    found = []
    for prompt, text in SAMPLES:
        before, own = tokenizer.encode(prompt).ids, tokenizer.encode(text).ids
        counted = len(own) if prompt else len(own) - 1
        found.append((torch.tensor([[*before, *own]]), counted))
    return found


def exact_loss(model: Any, ids: torch.Tensor, counted: int) -> torch.Tensor:
    logits = model(input_ids=ids).logits[0, :-1]
    chosen = torch.log_softmax(logits, dim=-1)[torch.arange(len(logits)), ids[0, 1:]]
    return -chosen[-counted:].sum()


def exact_fisher(directory: Path) -> tuple[Tensors, Any]:
    """The mean square of autograd's gradients in float64, by the model's own parameter names."""
    model = exact_model(directory)
    names, parameters = zip(*model.named_parameters(), strict=True)
    squares = [torch.zeros_like(parameter) for parameter in parameters]
    samples = tokens_of(directory)
    for ids, counted in samples:
        loss = exact_loss(model, ids, counted) / counted
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for square, gradient in zip(squares, gradients, strict=True):
            if gradient is not None:
                square += gradient**2 / len(samples)
    return dict(zip(names, squares, strict=True)), model


def assert_near(found: torch.Tensor, expected: torch.Tensor) -> None:
    scale = float(expected.abs().max())
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-5 * scale)


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2])
def test_fisher_is_the_mean_square_of_each_samples_gradient(
    make: Callable[[], Any], saved: Callable[[Callable[[], Any]], Path], tmp_path: Path
) -> None:
    directory = saved(make)
    found = measured(directory, "fisher", tmp_path / "out")
    expected, _ = exact_fisher(directory)
    assert set(found) == set(load_file(directory / "model.safetensors")) == set(expected)
    for name, values in expected.items():
        assert_near(found[name], values)


def test_fisher_of_experts_has_the_names_and_shapes_of_the_checkpoint(
    saved: Callable[[Callable[[], Any]], Path], tmp_path: Path
) -> None:
    """transformers joins the matrices of experts in memory; on disk they are apart."""
    directory = saved(tiny.mixtral)
    found = measured(directory, "fisher", tmp_path / "out")
    weights = load_file(directory / "model.safetensors")
    assert {name: each.shape for name, each in found.items()} == {
        name: each.shape for name, each in weights.items()
    }
    expected, _ = exact_fisher(directory)
    gate_up = expected["model.layers.1.mlp.experts.gate_up_proj"]
    down = expected["model.layers.1.mlp.experts.down_proj"]
    for expert in range(4):
        place = f"model.layers.1.block_sparse_moe.experts.{expert}"
        first, third = gate_up[expert].chunk(2)
        assert_near(found[f"{place}.w1.weight"], first)
        assert_near(found[f"{place}.w3.weight"], third)
        assert_near(found[f"{place}.w2.weight"], down[expert])


def test_names_without_the_models_prefix_are_found(
    saved: Callable[[Callable[[], Any]], Path], tmp_path: Path
) -> None:
    """GPT-2 was published as `wte.weight`, where transformers says `transformer.wte.weight`."""
    directory = saved(tiny.gpt2)
    bare = tmp_path / "bare"
    bare.mkdir()
    weights = load_file(directory / "model.safetensors")
    stripped = {name.removeprefix("transformer."): each for name, each in weights.items()}
    stripped["h.0.attn.bias"] = torch.ones(1, 1, 32, 32)  # as old versions stored the mask
    save_file(stripped, bare / "model.safetensors", metadata={"format": "pt"})
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (bare / name).write_bytes((directory / name).read_bytes())
    found = measured(bare, "fisher", tmp_path / "out")
    expected = measured(directory, "fisher", tmp_path / "expected")
    assert set(found) == set(stripped) - {"h.0.attn.bias"}
    for name, values in found.items():
        assert torch.equal(values, expected[f"transformer.{name}"])


def test_gram_matrices_are_those_of_the_inputs_without_padding(
    saved: Callable[[Callable[[], Any]], Path], tmp_path: Path
) -> None:
    directory = saved(tiny.llama)
    found = measured(directory, "gram", tmp_path / "out")
    model = exact_model(directory)
    with torch.no_grad():
        inputs = {
            "model.layers.0.self_attn.q_proj.weight": lambda ids: model.model.layers[
                0
            ].input_layernorm(model.model.embed_tokens(ids)),
            "lm_head.weight": lambda ids: model.model(input_ids=ids).last_hidden_state,
        }
        for name, run in inputs.items():
            rows = torch.cat([run(ids)[0] for ids, _ in tokens_of(directory)])
            assert inputs_axis(found[name]) == 1
            assert_near(gram_matrix(found[name]), rows.T @ rows / len(rows))
    layers = {name for name in load_file(directory / "model.safetensors") if "proj" in name}
    assert set(found) == {*layers, "lm_head.weight"}


def test_gram_matrices_know_weights_that_are_stored_the_other_way_round(
    saved: Callable[[Callable[[], Any]], Path], tmp_path: Path
) -> None:
    directory = saved(tiny.gpt2)
    found = measured(directory, "gram", tmp_path / "out")
    model = exact_model(directory).transformer
    with torch.no_grad():
        rows = torch.cat(
            [
                model.h[0].ln_1(model.wte(ids) + model.wpe.weight[None, : ids.shape[1]])[0]
                for ids, _ in tokens_of(directory)
            ]
        )
    name = "transformer.h.0.attn.c_attn.weight"
    assert inputs_axis(found[name]) == 0
    assert_near(gram_matrix(found[name]), rows.T @ rows / len(rows))
    # the head is tied to the embeddings, which are no linear layer
    assert set(found) == {
        f"transformer.h.{layer}.{part}.weight"
        for layer in range(3)
        for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }


def test_the_loss_is_the_mean_over_the_tokens_that_count(
    saved: Callable[[Callable[[], Any]], Path], tmp_path: Path
) -> None:
    directory = saved(tiny.llama)
    model, samples = exact_model(directory), tokens_of(directory)
    with torch.no_grad():
        total = sum(exact_loss(model, ids, counted) for ids, counted in samples)
    expected = float(total) / sum(counted for _, counted in samples)
    for batch_size in (1, 2, 5):
        found = measured(directory, "loss", tmp_path / "out", batch_size=batch_size)
        assert set(found) == {"*"}
        assert float(found["*"]) == pytest.approx(expected, rel=1e-5)


def test_a_long_text_loses_its_end_and_a_long_prompt_its_beginning() -> None:
    from transformers import PreTrainedTokenizerFast

    from tasks.calibration.model import tokenized

    own = letters()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=own)
    ids = own.encode("kijh").ids
    assert tokenized(tokenizer, 1, "", "kijhgfe", 4).ids == tuple(ids)
    sample = tokenized(tokenizer, 1, "gggki", "jh", 4)
    assert (sample.ids, sample.counted) == (tuple(ids), 2)
    with pytest.raises(Problem, match="line 7 of the data has fewer than two tokens"):
        tokenized(tokenizer, 7, "", "k", 4)


def test_an_adapter_is_applied_before_the_model_is_measured(
    saved: Callable[[Callable[[], Any]], Path], tmp_path: Path
) -> None:
    directory = saved(tiny.llama)
    module = "model.layers.1.self_attn.q_proj"
    factors = random_factors({module: (16, 16)}, 2, seed=3, scale=0.7)
    adapter = write_adapter(tmp_path / "adapter", factors)
    dense = tmp_path / "dense"
    dense.mkdir()
    weights = load_file(directory / "model.safetensors")
    a, b = (factor.double() for factor in factors[module])
    weights[f"{module}.weight"] = (weights[f"{module}.weight"].double() + b @ a).float()
    save_file(weights, dense / "model.safetensors", metadata={"format": "pt"})
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (dense / name).write_bytes((directory / name).read_bytes())
    plain = measured(directory, "loss", tmp_path / "plain")["*"]
    found = measured(directory, "loss", tmp_path / "found", adapter=str(adapter))["*"]
    expected = measured(dense, "loss", tmp_path / "expected")["*"]
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
    assert abs(float(found - plain)) > 1e-4


def broken(directory: Path, to: Path, change: Callable[[Tensors], None]) -> Path:
    """A copy of a checkpoint with other weights."""
    to.mkdir()
    weights = load_file(directory / "model.safetensors")
    change(weights)
    save_file(weights, to / "model.safetensors", metadata={"format": "pt"})
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (to / name).write_bytes((directory / name).read_bytes())
    return to


def without_tokenizer(directory: Path, to: Path) -> Path:
    broken(directory, to, lambda _: None)
    (to / "tokenizer.json").unlink()
    (to / "tokenizer_config.json").unlink()
    return to


UNUSABLE: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "a tensor that is no parameter": (
        lambda d, to: broken(d, to, lambda w: w.update({"extra.weight": torch.ones(2, 2)})),
        "the tensor extra.weight is no parameter",
    ),
    "a tensor that is missing": (
        lambda d, to: broken(d, to, lambda w: w.pop("model.norm.weight")),
        "has no tensor for model.norm.weight",
    ),
    "weights that are NaN": (
        lambda d, to: broken(d, to, lambda w: w["model.norm.weight"].fill_(torch.nan)),
        "is not finite",
    ),
    "too few embeddings": (
        lambda d, to: shrunk(broken(d, to, cut_vocabulary)),
        "the tokenizer gives the id",
    ),
    "no tokenizer": (without_tokenizer, "loads no tokenizer"),
}


def cut_vocabulary(weights: Tensors) -> None:
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = weights[name][:8].clone()


def shrunk(directory: Path) -> Path:
    config = json.loads((directory / "config.json").read_text()) | {"vocab_size": 8}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.mark.parametrize("fault", sorted(UNUSABLE))
def test_a_model_that_cannot_be_measured_is_refused_by_name(
    fault: str, saved: Callable[[Callable[[], Any]], Path], tmp_path: Path
) -> None:
    make, message = UNUSABLE[fault]
    directory = make(saved(tiny.llama), tmp_path / "model")
    statistic = "loss" if "NaN" in fault else "fisher"
    with pytest.raises(Problem, match=message) as caught:
        measure(job_of(directory, statistic, tmp_path / "out"), lambda _: None)
    assert caught.value.message["place"] == "model"


def test_an_encoder_is_refused(saved: Callable[[Callable[[], Any]], Path], tmp_path: Path) -> None:
    with pytest.raises(Problem, match=r"causal language models.*BertForMaskedLM"):
        measure(job_of(saved(tiny.bert), "loss", tmp_path / "out"), lambda _: None)


def test_a_sample_longer_than_the_models_context_is_refused(
    saved: Callable[[Callable[[], Any]], Path], tmp_path: Path
) -> None:
    long = [[1, "", "kij" * 40]]
    job = job_of(saved(tiny.llama), "loss", tmp_path / "out", samples=long, max_length=99)
    with pytest.raises(Problem, match="a sample has 99 tokens, and the model takes 32"):
        measure(job, lambda _: None)
