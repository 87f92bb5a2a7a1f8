"""lm-eval's model behind an OpenAI-compatible server, observed.

Imported in the evaluation process only: this module loads lm-eval and transformers.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from lm_eval.models.openai_completions import LocalCompletionsAPI

from tasks.evaluation.observing import Observing


class ServedLM(Observing, LocalCompletionsAPI):
    """Asks a server with the tokens of the checkpoint's own tokenizer, one request at a time."""

    device = "server"

    def set_batch_size(self, batch_size: int) -> None:
        self._batch_size = batch_size

    @property
    def longest(self) -> int:
        # The server's context holds one token more, which it has to generate.
        return int(self.max_length)

    @property
    def max_gen_toks(self) -> int:
        """Longest answer where a task does not say."""
        return int(self._max_gen_toks)

    def parse_generations(self, outputs: Any, **options: Any) -> list[str | None]:
        answers: list[str | None] = []
        self._endless = deque()
        for output in outputs if isinstance(outputs, list) else [outputs]:
            for choice in sorted(output["choices"], key=lambda each: each["index"]):
                answers.append(choice["text"])
                if choice["text"] is not None:
                    self._endless.append(choice.get("finish_reason") == "length")
        return answers
