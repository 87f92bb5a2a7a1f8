"""What the calibrated gate says of one task, for somebody who knows no statistics.

The plain change always stands first, as every table has it. Where it lies outside of the interval,
single documents were cut off or left out, and the sentence says so before it tells the interval.
"""

from __future__ import annotations

from tasks.promotion.against import Against, in_metric
from tasks.promotion.wording import in_unit, number, other_prompts_words, unit_of_documents
from tasks.records import TaskComparison
from tasks.statistics.results import TaskPlan, TaskResult

_MANY = 0.2
"""A mean change of this share of the most that a document may count for is no matter of a few:
at least so large a share of the documents changed."""


def task_reason(
    c: TaskComparison, task: TaskResult, plan: TaskPlan, each: Against, *, says_most: bool
) -> str:
    """What happened on one task, and whether it may have lost too much.

    Args:
        says_most: say where the most comes from that a document may count for.
    """
    if c.low == c.high == 0 or (task.gained == 0 and task.lost == 0):
        change = f"{c.task} scored alike on each of {c.documents} documents"
        is_alike, span = True, ""
    else:
        change, is_alike = f"{c.task} {_change(c)}", False
        span = f", surely {span_words(c.low, c.high)}"
    more = ""
    if task.gained or task.lost:
        more += f" (of {c.documents} documents {task.gained} became right and {task.lost} wrong)"
    more += other_prompts_words(c, each.called)
    outside = outside_words(c, task, each, says_most=says_most)
    said = f"{change}{'' if outside else span}{more}"
    allowed = _allowed(c, task, each)
    if task.outcome == "invalid":
        before, now = c.non_finite or (0, 0)
        return (
            f"{said}{outside}; {now} of {c.documents} answers are not finite numbers, and {before}"
            f" of {each.called}'s: that is never promoted"
        )
    if c.outcome == "unclear":
        too_few = _too_few(task, each)
        if too_few:
            return f"{said}{outside}; {too_few}"
        start = f"{said}{outside}" if outside else f"{change}{more}"
        return f"{start}; {allowed}. {_unclear(c, task, plan)}"
    if c.outcome == "regressed":
        if outside and c.improvement < 0:
            return f"{said}; {allowed}{outside}"
        return f"{said}{outside}; {allowed}"
    if is_alike or c.low >= 0:
        return f"{said}{outside}"
    return f"{said}{outside}; {allowed}{_keeps_usual(c, task, each)}"


def is_cut_off(task: TaskResult) -> bool:
    """Whether single documents changed so much that the interval of what was cut off does not have
    the plain change in it."""
    is_inside = task.low <= task.unclipped_change <= task.high
    return task.kind == "score" and not is_inside


def outside_words(c: TaskComparison, task: TaskResult, each: Against, *, says_most: bool) -> str:
    """Where the change surely is if it is not the plain one that was measured; nothing if it is."""
    left_out = (c.non_finite or (0, 0))[0]
    cut = is_cut_off(task)
    if c.low <= c.improvement <= c.high or not (cut or left_out):
        return ""
    them = "document" if left_out == 1 else f"{left_out} documents"
    without = f"without the {them} that {each.called} has no number for"
    if not cut:
        return f". {without.capitalize()} it is {_surely(c)}"
    bound = -c.high if c.high < 0 else max(c.low, 0.0)
    is_same_way = (c.improvement < 0 and c.high < 0) or (c.improvement > 0 and c.low > 0)
    most_in_metric = each.rule.clip * task.unit
    most = f"{number(most_in_metric)}{' bits' if 'perplexity' in c.metric else ''}"
    if says_most:
        most += f" ({number(100 * each.rule.clip)} % of {unit_of_documents(each.called)})"
    if left_out:
        most += f", and {without}"
    if not is_same_way:
        much = "all" if c.low > 0 or c.high < 0 else "much"
        return (
            f". Single documents make {much} of that: with each document's change cut off at"
            f" {most}, it is {_surely(c)}"
        )
    share = bound / most_in_metric
    if "perplexity" in c.metric:
        share = min(abs(task.low), abs(task.high)) / most_in_metric
    many = "That is not due to a few documents: even" if share >= _MANY else "Even"
    return (
        f". {many} with each document's change cut off at {most}, which makes it smaller, it is"
        f" {_surely(c)}"
    )


def span_words(low: float, high: float, unit: str = "") -> str:
    """An interval of changes."""
    if low >= 0:
        return f"between {number(low)} and {number(high)}{unit} better"
    if high <= 0:
        return f"between {number(-high)} and {number(-low)}{unit} worse"
    return f"between {number(-low)}{unit} worse and {number(high)}{unit} better"


def about_documents(needed: int | None, now: int) -> str | None:
    """How many documents would do, to two digits. None: today's do, or no number would."""
    if needed is None or needed <= 1.05 * now:
        return None
    return number(float(f"{needed:.2g}"))


def _change(c: TaskComparison) -> str:
    if c.improvement == 0:
        return "came out even in these documents"
    way = "better" if c.improvement > 0 else "worse"
    return f"got {way} by {number(abs(c.improvement))} {in_unit(c.metric)}"


def _surely(c: TaskComparison) -> str:
    """The interval of what was cut off: its far end says as little as where it was cut."""
    if c.high < 0:
        return f"surely at least {number(-c.high)} worse"
    if c.low > 0:
        return f"surely at least {number(c.low)} better"
    return f"surely {span_words(c.low, c.high)}"


def _allowed(c: TaskComparison, task: TaskResult, each: Against) -> str:
    allowed = number(c.max_regression)
    if each.must_hold.get(c.task) != 0:
        usual = _usual_limit(c, task, each)
        less = ""
        if usual is not None:
            less = f" (usually {number(usual)}, but the documents are few)"
        return f"a loss of {allowed} is allowed{less}"
    if c.improvement < 0:
        return "it must hold, so no loss is allowed"
    return f"it must hold: no loss was measured, and a true one of {allowed} is the most allowed"


def _usual_limit(c: TaskComparison, task: TaskResult, each: Against) -> float | None:
    """What may be lost where documents are many; None where no more than that is allowed."""
    if task.margin <= each.rule.margin or each.must_hold.get(c.task):
        return None
    before = each.baseline.report.score(c.task)
    return -in_metric(before, -each.rule.margin * task.unit)


def _keeps_usual(c: TaskComparison, task: TaskResult, each: Against) -> str:
    usual = _usual_limit(c, task, each)
    return "; the usual limit is kept too" if usual is not None and c.low >= -usual else ""


def _too_few(task: TaskResult, each: Against) -> str:
    rule = each.rule
    if task.documents < rule.min_documents:
        return f"{task.documents} documents are too few to judge, {rule.min_documents} are needed"
    if task.effective_groups < rule.min_groups:
        return (
            f"its documents come in {task.groups} groups, which count as"
            f" {number(task.effective_groups)}: too few to judge, {number(rule.min_groups)} are"
            " needed"
        )
    return ""


def _unclear(c: TaskComparison, task: TaskResult, plan: TaskPlan) -> str:
    """It counts against the candidate, so the sentences say how it might be shown."""
    least, most = number(abs(c.high)), number(-c.low)
    if c.high < 0:
        said = f"The true loss may be as small as {least} or as large as {most}"
    elif c.high > 0:
        said = f"The truth may be anything from {most} worse to {least} better"
    else:
        said = f"The truth may be anything from {most} worse to no change"
    if c.high < -c.max_regression:
        return (
            f"{said}: probably too large, but one of several tasks may look so by chance. It has"
            " to be shown to be no larger than is allowed"
        )
    said += ", so it may or may not be more than is allowed; in doubt the merge is refused"
    if -c.improvement > c.max_regression:
        return (
            f"{said}. More documents would end the doubt, but probably not in its favour: what was"
            " measured is more than is allowed"
        )
    about = about_documents(plan.documents_needed, task.documents)
    if about:
        said += f". Of a merge that loses nothing about {about} documents would show it"
    return said
