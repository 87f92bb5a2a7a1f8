"""lm-eval's transformers model, observed, with tokens that were made before.

Imported in the evaluation process only: this module loads lm-eval, torch and transformers.
"""

from __future__ import annotations

from array import array
from collections import deque
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM

from tasks.evaluation.observing import Observing

Encoded = dict[tuple[str, bool | None, int | None], "array[int]"]
"""Tokens by text and what else `tok_encode` is asked for."""


class ObservedLM(Observing, HFLM):
    """lm-eval's HFLM, which reports finished requests and notes odd documents."""

    def __init__(self, *, encoded: Encoded, **options: Any) -> None:
        """`encoded` has tokens of texts that were encoded before with the same tokenizer."""
        self._encoded = encoded
        super().__init__(**options)
        self.begin(1, lambda amount: None)

    def set_batch_size(self, batch_size: int) -> None:
        self.batch_size_per_gpu = batch_size

    def tok_encode(
        self,
        string: str,
        add_special_tokens: bool | None = None,
        left_truncate_len: int | None = None,
        **options: Any,
    ) -> list[int]:
        known = self._encoded.get((string, add_special_tokens, left_truncate_len))
        if known is not None and not options:
            return known.tolist()
        tokens: list[int] = super().tok_encode(
            string, add_special_tokens, left_truncate_len, **options
        )
        return tokens

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], **options: Any
    ) -> list[tuple[float, bool]]:
        answers = super()._loglikelihood_tokens(requests, **options)
        if not self._scored:
            # Windows of whole documents come batch by batch; each document's first window
            # follows the bare prefix token.
            self._advance(sum(window[1] == [self.prefix_token_id] for window in requests))
        return answers

    def _model_generate(
        self, context: torch.Tensor, max_length: int, stop: list[str], **options: Any
    ) -> torch.Tensor:
        output: torch.Tensor = super()._model_generate(
            context=context, max_length=max_length, stop=stop, **options
        )
        begin = context.shape[1] if self.backend == "causal" else 0
        whole = output.shape[1] >= max_length
        ends = self._end_tokens()
        self._endless = deque(
            whole
            and not ends.intersection(answer)
            and not any(text in self.tok_decode(answer) for text in stop if text)
            for answer in output[:, begin:].tolist()
        )
        return output

    def _end_tokens(self) -> set[int]:
        ends = self.model.generation_config.eos_token_id
        known = ends if isinstance(ends, list) else [ends]
        return {self.eot_token_id, *(token for token in known if token is not None)}

    def finished(self, kind: str, request: Any, answer: Any) -> None:
        if kind != "loglikelihood_rolling":  # counted by its windows
            super().finished(kind, request, answer)
