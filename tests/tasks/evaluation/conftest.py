"""A tiny, random Llama with a trained tokenizer, and a suite for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from merge_core.checkpoints.sources import describe_source
from merge_core.files.digests import DigestMemo
from merge_core.records import SourceCheckpoint
from tasks.evaluation.suite import Suite
from tests.support.small_suite import CONTEXT, TEXTS, write_suite


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(TEXTS, vocab_size=300, special_tokens=["<s>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=trained._tokenizer, bos_token="<s>", eos_token="<s>"
    )


@pytest.fixture(scope="module")
def make_checkpoint(tmp_path_factory, tokenizer) -> Callable[..., SourceCheckpoint]:
    """A two-layer Llama with random weights of a given seed, changed by `edit` before saving."""
    from transformers import LlamaConfig, LlamaForCausalLM

    def make(seed: int, edit=lambda model: None) -> SourceCheckpoint:
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
        directory = tmp_path_factory.mktemp(f"model-{seed}")
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        return describe_source(str(directory), directory, DigestMemo(None))

    return make


@pytest.fixture(scope="module")
def base(make_checkpoint) -> SourceCheckpoint:
    return make_checkpoint(0)


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> Suite:
    return write_suite(tmp_path_factory.mktemp("suite") / "small")
