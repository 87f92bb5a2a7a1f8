"""Why the former gate promoted a checkpoint or not, in words with numbers."""

from __future__ import annotations

from tasks.promotion.wording import in_unit, number, other_prompts_words
from tasks.records import TaskComparison


def task_reason(comparison: TaskComparison, confidence: float, min_documents: int) -> str:
    """What happened on one task, and what that means for the rule."""
    c = comparison
    unit = in_unit(c.metric)
    allowed = number(c.max_regression)
    if c.low == c.high == 0:
        change = f"{c.task} scored alike on each of {c.documents} documents"
    elif c.improvement == 0:
        change = f"{c.task} did not change ({_span(c.low, c.high, confidence)})"
    else:
        way = "better" if c.improvement > 0 else "worse"
        size = number(abs(c.improvement))
        change = f"{c.task} got {way} by {size} {unit} ({_span(c.low, c.high, confidence)})"
    change += other_prompts_words(c)
    before, now = c.non_finite or (0, 0)
    if now > before:
        return (
            f"{change}; {now} of {c.documents} answers are not finite numbers, and {before} of the"
            " baseline's: it may not have more"
        )
    if c.documents < min_documents:
        return f"{change}; {c.documents} documents are too few to judge, {min_documents} are asked"
    if c.outcome == "regressed":
        return f"{change}; at most {allowed} is allowed"
    if c.outcome == "unclear":
        return f"{change}; it may be worse by more than the {allowed} allowed: {_settled_by(c)}"
    return f"{change}; at most {allowed} is allowed" if c.improvement < 0 else change


def gain_reason(
    gain: float, low: float, high: float, min_gain: float, confidence: float, tasks: int
) -> str:
    """The mean improvement relative to the baseline's scores, against what is required."""
    mean = "the score" if tasks == 1 else f"the mean over {tasks} tasks"
    way = "better" if gain >= 0 else "worse"
    span = _span(100 * low, 100 * high, confidence, " %")
    change = f"{mean} is {number(100 * abs(gain))} % {way} than the baseline ({span})"
    if gain == low == high == 0:
        change = f"{mean} equals the baseline's"
    need = f"a gain of at least {number(100 * min_gain)} %"
    if low >= min_gain:
        return f"{change}; {need} is required"
    if high < min_gain:
        return f"{change}; {need} is required and it is certainly less"
    return f"{change}; {need} is required and this may be less"


def _span(low: float, high: float, confidence: float, unit: str = "") -> str:
    name = f"{100 * confidence:g} % interval"
    if low >= 0:
        return f"{name} {number(low)} to {number(high)}{unit}"
    if high <= 0:
        return f"{name} {number(-high)} to {number(-low)}{unit}"
    return f"{name} {number(-low)}{unit} worse to {number(high)}{unit} better"


def _settled_by(c: TaskComparison) -> str:
    """How many documents would shrink the interval to one side of what is allowed."""
    distance = abs(c.improvement + c.max_regression)
    needed = c.documents * ((c.high - c.low) / 2 / distance) ** 2 if distance else float("inf")
    if needed > 100 * c.documents:
        return f"too close to tell with any reasonable number of documents (now {c.documents})"
    return f"about {number(float(f'{needed:.1g}'))} documents would settle it (now {c.documents})"
