"""What the calibrated gate says of the average over the tasks, for somebody without statistics."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.promotion.against import Against
from tasks.promotion.task_reasons import span_words
from tasks.promotion.wording import in_unit, number, unit_of_documents
from tasks.statistics.results import TaskResult

_NAMED = 3
"""Of more tasks only their number is said."""


def mean_reason(each: Against) -> str:
    """The first question: is it better on the whole?"""
    over = _over([task.name for task in each.result.tasks if task.share > 0])
    said = _found(each, over)
    if any(task.outcome == "invalid" for task in each.result.tasks):
        return f"{said}, where an answer that is no number counts as the worst there is"
    outcome, exceed = each.result.primary.outcome, each.gate.exceed
    if exceed == 0:
        ends = {
            "gained": "that is more than chance",
            "below": "it has to be better",
            "unclear": "that may be chance, and it has to be surely better",
        }
        return f"{said}; {ends[outcome]}"
    asked = f"a loss of {number(-exceed)} units" if exceed < 0 else f"{number(exceed)} units"
    ends = {
        "gained": "and surely reached",
        "below": "and surely not reached",
        "unclear": "and it may be less",
    }
    return f"{said}; more than {asked} is asked for {ends[outcome]}"


def only_guarded(each: Against) -> list[str]:
    """Which tasks are no part of that average, and why."""
    names = [task.name for task in each.result.tasks if task.share == 0]
    if not names:
        return []
    named = _listed(names) if len(names) <= _NAMED else f"{len(names)} other tasks"
    is_one = len(names) == 1
    return [
        f"{named} {'is' if is_one else 'are'} no part of that average: the suite gives"
        f" {'it' if is_one else 'them'} weight 0, so {'it' if is_one else 'they'} only must not"
        " lose more than is allowed"
    ]


def units_line(each: Against) -> str:
    """What a unit is, of the tasks that are counted in units."""
    of_tasks = [
        f"{number(task.unit)} {in_unit(c.metric) if 'perplexity' not in c.metric else 'bits'}"
        f" for {task.task}"
        for task, c in zip(each.gate.tasks, each.comparisons, strict=True)
        if task.share != 0
    ]
    return (
        f"a unit makes tasks comparable: it is {unit_of_documents(each.called)},"
        f" {_listed(of_tasks)}"
    )


def _found(each: Against, over: str) -> str:
    gate, called = each.gate, each.called
    if gate.change == gate.low == gate.high == 0:
        return f"the merged checkpoint equals {called}{over}"
    plain = sum(_in_units(task) for task in each.result.tasks if task.share > 0)
    if gate.low <= plain <= gate.high:
        said = f"as good as {called}"
        if plain:
            way = "better" if plain > 0 else "worse"
            said = f"{way} than {called} by {number(abs(plain))} units"
        return f"the merged checkpoint is {said}{over}, surely {span_words(gate.low, gate.high)}"
    most = f"with each document's change cut off at {number(each.rule.clip)} units"
    if gate.low <= 0 <= gate.high:
        span = span_words(gate.low, gate.high, " units")
        return f"the merged checkpoint is surely {span} than {called}{over}, {most}"
    way = "better" if gate.low > 0 else "worse"
    said = f"the merged checkpoint is surely {way} than {called}{over}"
    is_same_way = (plain > 0) == (gate.low > 0)
    if is_same_way and gate.exceed == 0:
        return said
    least = number(gate.low if gate.low > 0 else -gate.high)
    return f"{said}, by at least {least} units{', even' if is_same_way else ','} {most}"


def _in_units(task: TaskResult) -> float:
    """What the plain change of a task adds to the average."""
    return task.share * task.unclipped_change / task.unit


def _over(names: Sequence[str]) -> str:
    if len(names) < 2:
        return ""
    return (
        f" on average over {_listed(names)}"
        if len(names) <= _NAMED
        else (f" on average over {len(names)} tasks")
    )


def _listed(texts: Sequence[str]) -> str:
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)
