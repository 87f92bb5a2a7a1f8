"""From lm-eval's logged samples to a value and a weight for each document.

`sum(values) / sum(weights)` is the task's score (or its binary logarithm, for perplexities), which
is what a paired bootstrap can resample. A model that answers NaN gets a bad score, never a crash.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tasks.records import WORST_BITS, Scale

_BITS_PER = ("bits_per_byte", "byte_perplexity", "word_perplexity")
_NATS_PER_BIT = math.log(2)


class DocumentValue(NamedTuple):
    """What one document contributes to a task's score."""

    value: float
    weight: float
    finite: bool
    """Whether the model's answer was a number; if not, `value` is the worst there is."""


class UnusableMetricError(ValueError):
    """The metric is not a mean over documents, so documents cannot be compared pairwise."""


def metric_scale(metric: str) -> Scale:
    """How `sum(values) / sum(weights)` becomes the score lm-eval reports."""
    return "power_of_two" if metric.endswith("perplexity") else "ratio"


def document_value(metric: str, higher_is_better: bool, sample: Mapping[str, Any]) -> DocumentValue:
    """The value and weight of one logged sample.

    Likelihood metrics: bits, and bytes, words or 1. All others: the document's own score, and 1.
    A document whose answer likelihoods are not finite counts as wrong: the likeliest of several
    NaN is an accident of order.

    Raises:
        UnusableMetricError: the metric is not one number for each document.
    """
    result = sample[metric]
    if metric in _BITS_PER and isinstance(result, tuple | list):
        nats, units = float(result[0]), float(result[1])
        return DocumentValue(_bits(nats, units), units, math.isfinite(nats))
    if metric == "perplexity" and isinstance(result, int | float):
        return DocumentValue(_bits(float(result), 1.0), 1.0, math.isfinite(result))
    if isinstance(result, bool | int | float) or hasattr(result, "item"):
        value = float(result)
        if math.isfinite(value) and _likelihoods_are_finite(sample.get("filtered_resps", ())):
            return DocumentValue(value, 1.0, finite=True)
        return DocumentValue(0.0 if higher_is_better else WORST_BITS, 1.0, finite=False)
    raise UnusableMetricError(
        f"metric '{metric}' is not one number for each document (lm-eval combines it over all of"
        " them), so two checkpoints cannot be compared document by document"
    )


def _bits(nats: float, units: float) -> float:
    bits = -nats / _NATS_PER_BIT
    worst = WORST_BITS * units
    return min(bits, worst) if math.isfinite(bits) else worst


def _likelihoods_are_finite(answers: Sequence[Any]) -> bool:
    return all(
        math.isfinite(answer[0])
        for answer in answers
        if isinstance(answer, tuple | list) and answer and isinstance(answer[0], float)
    )
