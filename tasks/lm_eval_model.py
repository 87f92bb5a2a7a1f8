"""lm-eval's transformers model with two additions: it says how far it is, and what it cut.

Imported in the evaluation process only: this module loads lm-eval, torch and transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook
from lm_eval.models.huggingface import HFLM

Advance = Callable[[int], None]


class ObservedLM(HFLM):
    """HFLM that reports finished requests and collects the documents that were too long."""

    def __init__(self, *, advance: Advance, **options: Any) -> None:
        super().__init__(**options)
        self.truncated: set[tuple[str, int]] = set()
        """(task, document number) of prompts that lost their beginning to fit the context."""
        self._advance = advance
        self._scored: Sequence[Instance] = ()
        self.set_cache_hook(_FinishedRequests(advance))

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        self._scored = requests
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        self._scored = ()
        return super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        for instance, (_, context, continuation) in zip(self._scored, requests, strict=False):
            if len(context) + len(continuation) > self.max_length + 1:
                self._note(instance)
        answers = super()._loglikelihood_tokens(requests, disable_tqdm, override_bs)
        if not self._scored:
            # Windows of whole documents come batch by batch; each document's first window
            # follows the bare prefix token.
            self._advance(sum(window[1] == [self.prefix_token_id] for window in requests))
        return answers

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        for instance in requests:
            prompt, options = instance.args
            room = self.max_length - int(options.get("max_gen_toks", self.max_gen_toks))
            if len(self.tok_encode(prompt)) > room:
                self._note(instance)
        return super().generate_until(requests, disable_tqdm=disable_tqdm)

    def _note(self, instance: Instance) -> None:
        self.truncated.add((str(instance.task_name), int(instance.doc_id or 0)))


class _FinishedRequests(CacheHook):
    """lm-eval tells its response cache about each answer; there is no cache, only a count."""

    def __init__(self, advance: Advance) -> None:
        super().__init__(None)
        self._advance = advance

    def add_partial(self, attr: str, req: Any, res: Any) -> None:
        if attr != "loglikelihood_rolling":
            self._advance(1)
