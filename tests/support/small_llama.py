"""A tiny, random Llama with a trained tokenizer, which transformers loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from merge_core.checkpoints.sources import describe_source
from merge_core.files.digests import DigestMemo
from merge_core.records import SourceCheckpoint
from tests.support.small_suite import CONTEXT, TEXTS


def trained_tokenizer() -> Any:
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(TEXTS, vocab_size=300, special_tokens=["<s>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=trained._tokenizer, bos_token="<s>", eos_token="<s>"
    )


def write_small_llama(
    directory: Path, tokenizer: Any, seed: int, edit: Callable[[Any], None] = lambda model: None
) -> SourceCheckpoint:
    """A two-layer Llama with random weights of a given seed, changed by `edit` before saving."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=300,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            initializer_range=0.2,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    with torch.no_grad():
        edit(model)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return describe_source(str(directory), directory, DigestMemo(None))
