"""Checkpoints of a real model's shape, filled with noise, for measuring speed and memory.

    python benchmarks/make_checkpoints.py benchmarks/work --shape llama-1b --models 4

The base is normal noise of a typical scale; each further model adds a small task vector, so that
verify takes them for fine-tunes. Tokenizer-free: only weights and a config are written.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file

SHAPES: dict[str, dict[str, int]] = {
    # Llama-3.2-1B: 1.24 B parameters, tied embeddings
    "llama-1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
    },
    # Llama-3.1-8B: 8.03 B parameters, an output matrix of its own
    "llama-8b": {
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
    },
    # As llama-8b, with two of its layers: the same tensors, the largest among them, on less disk
    "llama-8b-two-layers": {
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 2,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
    },
    "llama-60m": {
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": 32_000,
    },
}
UNTIED = ("llama-8b", "llama-8b-two-layers")
SHARD_BYTES = 1_000_000_000
PATTERN = 1 << 24
"""Elements of noise after which it repeats: drawing billions of numbers would take minutes."""


def tensor_shapes(shape: dict[str, int]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a Llama's tensors but its output matrix."""
    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    kv = hidden // shape["num_attention_heads"] * shape["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (shape["vocab_size"], hidden)
    }
    for layer in range(shape["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        shapes |= {
            f"{prefix}.input_layernorm.weight": (hidden,),
            f"{prefix}.self_attn.q_proj.weight": (hidden, hidden),
            f"{prefix}.self_attn.k_proj.weight": (kv, hidden),
            f"{prefix}.self_attn.v_proj.weight": (kv, hidden),
            f"{prefix}.self_attn.o_proj.weight": (hidden, hidden),
            f"{prefix}.post_attention_layernorm.weight": (hidden,),
            f"{prefix}.mlp.gate_proj.weight": (inner, hidden),
            f"{prefix}.mlp.up_proj.weight": (inner, hidden),
            f"{prefix}.mlp.down_proj.weight": (hidden, inner),
        }
    return shapes | {"model.norm.weight": (hidden,)}


def write_model(directory: Path, name: str, model: int) -> None:
    """Model 0 is the base; model i adds its own small task vector."""
    directory.mkdir(parents=True)
    shape = SHAPES[name]
    shapes = tensor_shapes(shape)
    if name in UNTIED:
        shapes["lm_head.weight"] = (shape["vocab_size"], shape["hidden_size"])
    shard: dict[str, torch.Tensor] = {}
    shards: list[list[str]] = []
    used = 0

    def flush() -> None:
        save_file(shard, directory / f"part-{len(shards)}", metadata={"format": "pt"})
        shards.append(list(shard))
        shard.clear()

    for number, (tensor, extent) in enumerate(shapes.items()):
        noise = torch.Generator().manual_seed(number)
        values = _noise(extent, 0.02, noise)
        if model:
            own = torch.Generator().manual_seed(1000 * model + number)
            values += _noise(extent, 0.001, own)
        shard[tensor] = values.to(torch.bfloat16)
        used += 2 * values.numel()
        if used > SHARD_BYTES:
            flush()
            used = 0
    if shard:
        flush()
    weight_map = {}
    for index, names in enumerate(shards):
        file = f"model-{index + 1:05}-of-{len(shards):05}.safetensors"
        (directory / f"part-{index}").rename(directory / file)
        weight_map |= dict.fromkeys(names, file)
    index_json = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index_json))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "tie_word_embeddings": name not in UNTIED,
        **shape,
    }
    (directory / "config.json").write_text(json.dumps(config, indent=2))


def _noise(extent: tuple[int, ...], scale: float, generator: torch.Generator) -> torch.Tensor:
    numel = math.prod(extent)
    pattern = torch.empty(min(numel, PATTERN)).normal_(0, scale, generator=generator)
    return pattern.repeat(-(-numel // PATTERN))[:numel].reshape(extent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="llama-1b")
    parser.add_argument("--models", type=int, default=4, help="the base included")
    options = parser.parse_args()
    for model in range(options.models):
        directory = options.directory / options.shape / ("base" if model == 0 else f"model-{model}")
        if not directory.exists():
            write_model(directory, options.shape, model)
        print(directory)


if __name__ == "__main__":
    main()
