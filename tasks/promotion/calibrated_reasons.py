"""Why the calibrated gate promoted a checkpoint or not, for somebody who knows no statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tasks.promotion.baselines import MOVING, ComparedWith
from tasks.promotion.wording import (
    NOTHING_TO_PROMOTE,
    cannot_tell,
    in_unit,
    number,
    other_prompts_words,
)
from tasks.records import AnswersOfTask, CalibratedGate, KeptOfExpert, TaskComparison, Verdict
from tasks.roles import the
from tasks.statistics import GateResult, GateRule
from tasks.statistics.results import PlanResult, TaskPlan, TaskResult


@dataclass(frozen=True)
class Against:
    """What was found against one baseline."""

    baseline: ComparedWith
    rule: GateRule
    result: GateResult
    planned: PlanResult
    comparisons: tuple[TaskComparison, ...]
    gate: CalibratedGate
    verdict: Verdict
    must_hold: Mapping[str, float]
    uncounted: tuple[str, ...] = ()
    """Tasks whose answers were counted for one of the two alone."""

    def without_experts(self) -> Against:
        """What was kept of them is told once, against the first baseline."""
        return replace(self, gate=self.gate.model_copy(update={"kept": ()}))


@dataclass(frozen=True)
class All:
    """Everything that a decision is told from."""

    found: Sequence[Against]
    """The baseline that the run falls back to first."""
    verdict: Verdict
    on_inconclusive: str
    same: bool
    """The candidate has a baseline's own weights."""
    nights: int


def reasons(told: All) -> tuple[str, ...]:
    """One sentence for each thing that was found: what refuses first, then what is unclear."""
    parts: dict[str, list[str]] = {name: [] for name in ("refused", "mean", "unclear", "held")}
    ends: list[str] = []
    for each in told.found:
        prefix = f"against {the(each.baseline.name)}: " if len(told.found) > 1 else ""
        for name, lines in _sections(each).items():
            parts[name] += [prefix + line for line in lines]
        is_open = each.result.primary.outcome == "unclear" or "unclear" in {
            c.outcome for c in each.comparisons
        }
        if each.verdict == "inconclusive" and is_open and not told.same:
            ends.append(prefix + _resolution(each.gate))
    first = told.found[0]
    lines = [
        *([NOTHING_TO_PROMOTE] * told.same),
        *parts["refused"],
        *parts["mean"],
        *parts["unclear"],
        *parts["held"],
        *ends,
        *([_compared_with(told)] if len(told.found) > 1 else []),
        *(_uncounted(each) for each in told.found if each.uncounted),
        _units(first.comparisons, first.gate),
    ]
    if told.verdict == "inconclusive" and not told.same:
        lines.append(cannot_tell(told.on_inconclusive))
    return tuple(lines)


def _sections(each: Against) -> dict[str, list[str]]:
    told: dict[str, list[str]] = {"regressed": [], "unclear": [], "held": []}
    for comparison, task, plan in zip(
        each.comparisons, each.result.tasks, each.planned.tasks, strict=True
    ):
        told[comparison.outcome].append(_task(comparison, task, plan, each))
    for answers in each.gate.answers or ():
        if answers.outcome != "held":
            told[answers.outcome].append(_answers(answers))
    kept = {
        outcome: [_kept(one, each.rule) for one in each.gate.kept if one.outcome == outcome]
        for outcome in ("below", "unclear", "kept")
    }
    blocks = each.rule.retention_blocks
    return {
        "refused": [*told["regressed"], *(kept["below"] if blocks else [])],
        "mean": [_mean(each.result, each.gate)],
        "unclear": told["unclear"],
        "held": [
            *told["held"],
            *([] if blocks else kept["below"]),
            *kept["unclear"],
            *kept["kept"],
        ],
    }


def _compared_with(told: All) -> str:
    """Whom it had to beat, and how sure that has to be."""
    names = [the(each.baseline.name) for each in told.found]
    said = f"it has to beat {', '.join(names[:-1])} and {names[-1]}, each of them"
    stays = [the(e.baseline.name) for e in told.found if e.baseline.name not in MOVING]
    if told.nights > 1 and stays:
        alpha = max(each.rule.alpha for each in told.found)
        said += (
            f"; {' and '.join(stays)} is the same in every run, so it has to be beaten more surely:"
            f" {told.nights} runs share the {number(100 * alpha)} % of wrong promotions"
        )
    return said


def _uncounted(each: Against) -> str:
    return (
        f"repetitions and lengths of answers to {', '.join(each.uncounted)} are not compared with"
        f" {the(each.baseline.name)}'s, as an older mergeflow evaluated one of the two"
    )


def _answers(each: AnswersOfTask) -> str:
    if each.what == "length":
        way, times = (
            ("longer", each.now / each.before)
            if each.now > each.before
            else ("shorter", each.before / max(each.now, 1e-9))
        )
        size = f"{number(times)} times {way}" if each.now else "empty"
        return (
            f"answers to {each.task} became {size}: {number(each.now)} characters on average,"
            f" {number(each.before)} of the baseline's"
        )
    kinds = {
        "empty": "empty",
        "cut_off": "cut off at the token limit",
        "looping": "repetitions of themselves",
    }
    said = (
        f"of {each.documents} answers to {each.task} {each.now:g} are {kinds[each.what]}, and"
        f" {each.before:g} of the baseline's"
    )
    if each.outcome == "unclear":
        return f"{said}: more than is allowed, and perhaps by chance"
    return f"{said}: more than is allowed"


def _mean(result: GateResult, gate: CalibratedGate) -> str:
    """The first question: is it better on the whole?"""
    count = sum(task.share > 0 for task in result.tasks)
    over = "" if count == 1 else f" on average over {count} tasks"
    way = "better" if gate.change > 0 else "worse"
    said = f"the merged checkpoint is {way} than the baseline by {number(abs(gate.change))} units"
    if gate.change == 0:
        said = "the merged checkpoint is as good as the baseline"
    said += f"{over}, surely {_span(gate.low, gate.high)}"
    if gate.change == gate.low == gate.high == 0:
        said = f"the merged checkpoint equals the baseline{over}"
    outcome = result.primary.outcome
    if any(task.outcome == "invalid" for task in result.tasks):
        return f"{said}, where an answer that is no number counts as the worst there is"
    if gate.exceed == 0:
        ends = {
            "gained": "it is better by more than chance",
            "below": "it is certainly not better",
            "unclear": "that may be chance",
        }
        return f"{said}; {ends[outcome]}"
    asked = f"more than {_signed(gate.exceed)} is asked for"
    ends = {
        "gained": "and certainly reached",
        "below": "and certainly not reached",
        "unclear": "and it may be less",
    }
    return f"{said}; {asked} {ends[outcome]}"


def _task(c: TaskComparison, task: TaskResult, plan: TaskPlan, each: Against) -> str:
    """What happened on one task, and whether it may have lost too much."""
    rule = each.rule
    unit = in_unit(c.metric)
    allowed = number(c.max_regression)
    if c.low == c.high == 0 or (task.gained == 0 and task.lost == 0):
        said = f"{c.task} scored alike on each of {c.documents} documents"
    elif c.improvement == 0:
        said = f"{c.task} did not change, surely {_span(c.low, c.high)}"
    else:
        way = "better" if c.improvement > 0 else "worse"
        size = number(abs(c.improvement))
        said = f"{c.task} got {way} by {size} {unit}, surely {_span(c.low, c.high)}"
    if not c.low <= c.improvement <= c.high:
        most = number(rule.clip * task.unit)
        said += f" when no document counts for more than {most}"
    if task.gained or task.lost:
        said += f" (of {c.documents} documents {task.gained} became right and {task.lost} wrong)"
    said += other_prompts_words(c)
    if task.outcome == "invalid":
        before, now = c.non_finite or (0, 0)
        return (
            f"{said}; {now} of {c.documents} answers are not finite numbers, and {before} of the"
            " baseline's: that is never promoted"
        )
    if c.outcome == "regressed" and each.must_hold.get(c.task) == 0:
        return f"{said}; it is a task that must hold, where any loss is refused"
    if c.outcome == "regressed":
        return f"{said}; it certainly lost more than the {allowed} allowed"
    if c.outcome == "unclear":
        return f"{said}; {_unclear(c, task, plan, rule)}"
    wider = ""
    if task.margin > rule.margin and not each.must_hold.get(c.task):
        asked = number(c.max_regression * rule.margin / task.margin)
        wider = f" ({asked} is asked for, and {c.documents} documents cannot show so little)"
    return f"{said}; a loss of {allowed} is ruled out{wider}"


def _unclear(c: TaskComparison, task: TaskResult, plan: TaskPlan, rule: GateRule) -> str:
    if task.documents < rule.min_documents:
        return f"{task.documents} documents are too few to judge, {rule.min_documents} are needed"
    if task.effective_groups < rule.min_groups:
        return (
            f"its documents come in {task.groups} groups, which count as"
            f" {number(task.effective_groups)}: too few to judge, {number(rule.min_groups)} are"
            " needed"
        )
    said = (
        f"it may have lost up to {number(-c.low)}, and a loss of {number(c.max_regression)} has to"
        " be ruled out"
    )
    about = about_documents(plan.documents_needed, task.documents)
    if about:
        said += f"; about {about} documents would do for a merge that loses nothing"
        said += f" (now {task.documents})"
    return said


def about_documents(needed: int | None, now: int) -> str | None:
    """How many more would do, to two digits; None where those of now do, or none would."""
    if needed is None or needed <= 1.05 * now:
        return None
    return number(float(f"{needed:.2g}"))


def _kept(each: KeptOfExpert, rule: GateRule) -> str:
    asked = f"{100 * rule.share:g} %"
    if each.kept < 0:
        said = f"on {each.task} the gain of {each.expert} was lost, and more"
    else:
        said = f"on {each.task} {100 * each.kept:.0f} % of the gain of {each.expert} was kept"
    ends = {
        "below": f"certainly less than the {asked} asked for",
        "kept": f"certainly the {asked} asked for",
        "unclear": f"whether it is the {asked} asked for cannot be told",
    }
    return f"{said}; {ends[each.outcome]}"


def _resolution(gate: CalibratedGate) -> str:
    """What the suite could have shown at all."""
    if gate.visible is not None:
        return (
            f"this suite cannot tell less: a merge has to be better by about"
            f" {number(gate.visible)} units to be promoted four times of five"
        )
    return (
        f"this suite cannot tell less: a mean change is uncertain by about"
        f" {number(gate.change - gate.low)} units"
    )


def _units(comparisons: Sequence[TaskComparison], gate: CalibratedGate) -> str:
    apart = ", ".join(
        f"{number(task.unit)} {in_unit(c.metric) if 'perplexity' not in c.metric else 'bits'}"
        f" for {task.task}"
        for task, c in zip(gate.tasks, comparisons, strict=True)
    )
    return (
        f"a unit is how far the baseline's own documents lie apart: {apart}; 'surely' is wrong,"
        f" to either side, in at most {100 * gate.alpha:g} % of evaluations"
    )


def _span(low: float, high: float) -> str:
    if low >= 0:
        return f"between {number(low)} and {number(high)} better"
    if high <= 0:
        return f"between {number(-high)} and {number(-low)} worse"
    return f"between {number(-low)} worse and {number(high)} better"


def _signed(value: float) -> str:
    return f"a loss of {number(-value)} units" if value < 0 else f"{number(value)} units"
