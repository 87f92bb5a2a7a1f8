"""Checkpoints with different vocabularies, and recipes on which this project and mergekit agree.

Read by `benchmarks/parity/make_expected_vocabularies.py` in mergekit's own environment too, so it
needs torch, numpy and safetensors only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

HIDDEN = 4
SPECIAL = ("<pad>", "<s>", "</s>")
LETTERS = tuple("abcdefghijklmnopqrst")
PIECES: dict[str, tuple[str, ...]] = {
    "base": (*LETTERS, "ab", "cd"),
    "chat": (*LETTERS, "ab", "cd"),
    "other": (*reversed(LETTERS), "cd", "ef", "gh"),
    "third": (*LETTERS, "gh", "ij", "ef"),
}
"""Ordinary tokens of each model, after the special ones."""
ADDED: dict[str, tuple[str, ...]] = {
    "base": (),
    "chat": ("<|im_start|>", "<|im_end|>"),
    "other": ("<|im_end|>", "<tool>"),
    "third": ("<tool>", "<|im_start|>", "<think>"),
}
"""Tokens that each model adds after those."""
MODELS = tuple(PIECES)
_BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}


def _linear(*models: str) -> dict[str, Any]:
    return {
        "merge_method": "linear",
        "models": [
            {"model": model, "parameters": {"weight": 1 + index}}
            for index, model in enumerate(models)
        ],
        "dtype": "float32",
    }


def _arithmetic(*models: str) -> dict[str, Any]:
    return {**_linear(*models), "merge_method": "task_arithmetic", "base_model": "base"}


CASES: dict[str, dict[str, Any]] = {
    "union": _linear("base", "chat", "other", "third") | {"tokenizer_source": "union"},
    "union_without_the_base": _linear("chat", "other", "third") | {"tokenizer_source": "union"},
    "union_of_task_vectors": _arithmetic("chat", "other", "third") | {"tokenizer_source": "union"},
    "base": _arithmetic("chat", "other") | {"tokenizer_source": "base"},
    "model": _linear("chat", "other", "third") | {"tokenizer_source": "other"},
    "padded": _arithmetic("other") | {"tokenizer": {"source": "base", "pad_to_multiple_of": 16}},
    "padded_union": _arithmetic("other")
    | {"tokenizer": {"source": "union", "pad_to_multiple_of": 8}},
    "token_sources": _arithmetic("chat", "other", "third")
    | {
        "tokenizer": {
            "source": "union",
            "tokens": {
                "<|im_start|>": {"source": "third"},
                "<|im_end|>": {"source": {"kind": "model_token", "model": "base", "token": "</s>"}},
                "<tool>": {
                    "source": {"kind": "model_token", "model": "other", "token_id": 7},
                    "force": True,
                },
                "<new>": {"source": {"kind": "model_token", "model": "chat", "token": "ab"}},
            },
        }
    },
}


def write_vocabulary_checkpoints(root: Path) -> str:
    """Write every checkpoint under `root`; returns one sha256 over their values and tokenizers."""
    digest = hashlib.sha256()
    for index, name in enumerate(MODELS):
        tokenizer = tokenizer_json(PIECES[name], ADDED[name])
        rows = len(SPECIAL) + len(PIECES[name]) + len(ADDED[name])
        digest.update(json.dumps(tokenizer).encode())
        tensors = {}
        for place, (key, shape) in enumerate(_shapes(rows).items()):
            draws = np.random.RandomState(100 * index + place).randint(-1000, 1000, size=shape)
            tensors[key] = torch.from_numpy((draws / 1024.0).astype(np.float32))
            digest.update(tensors[key].numpy().tobytes())
        directory = root / name
        directory.mkdir(parents=True)
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        _write(directory / "config.json", _config(rows))
        _write(directory / "tokenizer.json", tokenizer)
        _write(directory / "tokenizer_config.json", TOKENIZER_CONFIG)
    return digest.hexdigest()


TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "pad_token": "<pad>",
}


def tokenizer_json(pieces: Sequence[str], added: Sequence[str]) -> dict[str, Any]:
    """A BPE tokenizer of some letters and pairs of letters, with further tokens after them."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    vocabulary = {token: number for number, token in enumerate((*SPECIAL, *pieces))}
    numbered = {token: number for number, token in enumerate(SPECIAL)}
    numbered |= {token: len(vocabulary) + number for number, token in enumerate(added)}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": token, "special": True, **flags}
            for token, number in numbered.items()
        ],
        "normalizer": None,
        "pre_tokenizer": _BYTE_LEVEL,
        "post_processor": None,
        "decoder": _BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "dropout": None,
            "vocab": vocabulary,
            "merges": [list(piece) for piece in pieces if len(piece) == 2],
        },
    }


def _shapes(rows: int) -> dict[str, tuple[int, ...]]:
    place = "model.layers.0"
    return {
        "model.embed_tokens.weight": (rows, HIDDEN),
        f"{place}.input_layernorm.weight": (HIDDEN,),
        f"{place}.self_attn.q_proj.weight": (HIDDEN, HIDDEN),
        f"{place}.self_attn.k_proj.weight": (HIDDEN, HIDDEN),
        f"{place}.self_attn.v_proj.weight": (HIDDEN, HIDDEN),
        f"{place}.self_attn.o_proj.weight": (HIDDEN, HIDDEN),
        f"{place}.post_attention_layernorm.weight": (HIDDEN,),
        f"{place}.mlp.gate_proj.weight": (2 * HIDDEN, HIDDEN),
        f"{place}.mlp.up_proj.weight": (2 * HIDDEN, HIDDEN),
        f"{place}.mlp.down_proj.weight": (HIDDEN, 2 * HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (rows, HIDDEN),
    }


def _config(rows: int) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": HIDDEN // 2,
        "vocab_size": rows,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))
