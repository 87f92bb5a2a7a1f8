"""lm-eval's vLLM model, observed.

Imported in the evaluation process only, where vLLM is installed.
"""

from __future__ import annotations

from lm_eval.models.vllm_causallms import VLLM

from tasks.evaluation.observing import Observing


class ObservedVLLM(Observing, VLLM):
    """vLLM chooses its batches itself, and does not say which answers ran to the limit."""

    device = "cuda"
    is_length_told = False

    def set_batch_size(self, batch_size: int) -> None:
        pass

    @property
    def longest(self) -> int:
        return int(self.max_length)
