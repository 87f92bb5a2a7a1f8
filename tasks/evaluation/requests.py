"""A suite's prompts and their tokens, made without a checkpoint's weights.

Imported in evaluation processes only.
"""

from __future__ import annotations

from array import array
from typing import Any

import torch
from lm_eval.api.instance import Instance
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES

from tasks.evaluation.lm_eval_model import Encoded, ObservedLM

MOST_CHARACTERS = 1 << 26
"""Of texts whose tokens are kept; the others are encoded again for each checkpoint."""


def build(tasks: dict[str, Any], settings: dict[str, Any], checkpoint: str) -> TokensOnly:
    """Build every task's requests. Returns the model, without weights, that tokenizes them."""
    model = TokensOnly.of(checkpoint, settings["max_length"])
    with_template = settings["apply_chat_template"]
    for task in tasks.values():
        task.build_all_requests(
            limit=settings["limit"],
            rank=0,
            world_size=1,
            apply_chat_template=with_template,
            fewshot_as_multiturn=settings["turns"],
            system_instruction=settings["system_instruction"],
            chat_template=model.apply_chat_template if with_template else None,
            tokenizer_name=model.tokenizer_name if with_template else "",
        )
    return model


def encode(tasks: dict[str, Any], model: TokensOnly) -> Encoded:
    """The tokens of every text that an evaluation asks a tokenizer about."""
    by_type: dict[str, list[Instance]] = {}
    for task in tasks.values():
        for instance in task.instances:
            by_type.setdefault(instance.request_type, []).append(instance)
    for request_type, instances in by_type.items():
        getattr(model, request_type)(instances)
    return model.encoded


class TokensOnly(ObservedLM):
    """lm-eval's model with all that it does to texts, and nothing to compute with."""

    @classmethod
    def of(cls, checkpoint: str, max_length: int | None) -> TokensOnly:
        """The model of a checkpoint's config and tokenizer."""
        config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False)
        several = config.model_type in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
        kind: Any = AutoModelForSeq2SeqLM if several else AutoModelForCausalLM
        with torch.device("meta"):
            model = kind.from_config(config, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)
        return cls(pretrained=model, tokenizer=tokenizer, max_length=max_length)

    def __init__(self, **options: Any) -> None:
        super().__init__(encoded={}, **options)
        self.encoded: Encoded = {}
        self._room = MOST_CHARACTERS

    def tok_encode(
        self,
        string: str,
        add_special_tokens: bool | None = None,
        left_truncate_len: int | None = None,
        **options: Any,
    ) -> list[int]:
        tokens = super().tok_encode(string, add_special_tokens, left_truncate_len, **options)
        self._room -= len(string)
        if self._room >= 0 and not options:
            self.encoded[string, add_special_tokens, left_truncate_len] = array("q", tokens)
        return tokens

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], **options: Any
    ) -> list[tuple[float, bool]]:
        return [(0.0, False)] * len(requests)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        return ["" for instance in requests if self.tok_encode(instance.args[0])]
