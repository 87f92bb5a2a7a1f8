"""What the reasons of both gates say alike: metrics, numbers, other prompts, no answer at all."""

from __future__ import annotations

from tasks.records import TaskComparison

_UNITS = {
    "bits_per_byte": "bits per byte",
    "acc": "in accuracy",
    "acc_norm": "in length-normalised accuracy",
    "exact_match": "in exact match",
    "word_perplexity": "in word perplexity",
    "byte_perplexity": "in byte perplexity",
}


NOTHING_TO_PROMOTE = "the merged checkpoint is the baseline itself: nothing to promote"


def cannot_tell(on_inconclusive: str, baseline: str = "the baseline") -> str:
    """The last reason of an inconclusive decision: what the rule says to do then."""
    action = f"keeps {baseline}" if on_inconclusive == "fall_back" else "promotes"
    return f"the evaluation cannot tell; the rule {action} in that case"


def in_unit(metric: str) -> str:
    """A metric as the unit of a number: "bits per byte", "in accuracy"."""
    return _UNITS.get(metric, f"in {metric}")


def unit_of_documents(baseline: str) -> str:
    """What a unit of the calibrated gate is, in a sentence."""
    return f"how much {baseline}'s own scores differ from one document to the next"


def other_prompts_words(c: TaskComparison, baseline: str = "the baseline") -> str:
    """What follows when documents were asked with other prompts; nothing when none were."""
    if not c.other_prompts:
        return ""
    return (
        f"; {c.other_prompts} of its {c.documents} documents were asked with other prompts than"
        f" {baseline}'s (another chat template?), so not the weights alone are compared"
    )


def number(value: float) -> str:
    """Three digits that matter, without exponents where people do not expect them."""
    if value and 1000 <= abs(value) < 1e7:
        return f"{value:.0f}"
    return f"{value + 0.0:.3g}"
