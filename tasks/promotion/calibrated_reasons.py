"""Why the calibrated gate promoted a checkpoint or not, for somebody who knows no statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.promotion.against import Against
from tasks.promotion.baselines import MOVING
from tasks.promotion.mean_reasons import mean_reason, only_guarded, units_line
from tasks.promotion.task_reasons import outside_words, task_reason
from tasks.promotion.wording import NOTHING_TO_PROMOTE, cannot_tell, number
from tasks.records import AnswersOfTask, CalibratedGate, KeptOfExpert, Verdict
from tasks.statistics import GateRule

_SURELY = "surely"


@dataclass(frozen=True)
class All:
    """Everything that a decision is told from."""

    found: Sequence[Against]
    """Against each baseline. The first is the one that the run falls back to."""
    verdict: Verdict
    on_inconclusive: str
    same: bool
    """Whether the candidate has a baseline's own weights."""
    nights: int
    """How many runs share alpha against a baseline that stays."""


def reasons(told: All) -> tuple[str, ...]:
    """One entry for each thing that was found: what refuses first, then what is unclear."""
    parts: dict[str, list[str]] = {name: [] for name in ("refused", "mean", "unclear", "held")}
    ends: list[str] = []
    for each in told.found:
        prefix = f"against {each.called}: " if len(told.found) > 1 else ""
        for name, lines in _sections(each).items():
            parts[name] += [prefix + line for line in lines]
        is_open = each.result.primary.outcome == "unclear" or "unclear" in {
            c.outcome for c in each.comparisons
        }
        if each.verdict == "inconclusive" and is_open and not told.same:
            ends.append(prefix + _resolution(each.gate))
    first = told.found[0]
    units = [units_line(first)]
    in_mean, in_ends = (any(" units" in line for line in each) for each in (parts["mean"], ends))
    lines = [
        *([NOTHING_TO_PROMOTE] * told.same),
        *([] if told.same else _in_short(first, told.on_inconclusive)),
        *parts["refused"],
        *parts["mean"],
        *(units if in_mean else []),
        *only_guarded(first),
        *parts["unclear"],
        *parts["held"],
        *ends,
        *(units if in_ends and not in_mean else []),
        *([_compared_with(told)] if len(told.found) > 1 else []),
        *(_uncounted(each) for each in told.found if each.uncounted),
    ]
    if any(_SURELY in line for line in lines):
        lines.append(_how_sure(told.found, lines))
    if told.verdict == "inconclusive" and not told.same:
        lines.append(cannot_tell(told.on_inconclusive, first.called))
    return tuple(lines)


def _in_short(each: Against, on_inconclusive: str) -> list[str]:
    """How many tasks are worse and how many of them by too much, if any is."""
    worse = [c for c in each.comparisons if c.improvement < 0]
    counts = [
        (sum(c.outcome == "regressed" for c in worse), "by more than is allowed"),
        (sum(c.outcome == "unclear" for c in worse), "by perhaps more than is allowed"),
    ]
    said = f"worse than {each.called} on {len(worse)} of {len(each.comparisons)} tasks"
    parts = [f"{count} {what}" for count, what in counts if count]
    if not parts:
        return []
    alone = "any one of these would refuse the merge"
    several = sum(count for count, _ in counts) > 1 and on_inconclusive == "fall_back"
    return [f"{said}: {', '.join(parts)}{f'; {alone}' if several else ''}"]


def _sections(each: Against) -> dict[str, list[str]]:
    told: dict[str, list[str]] = {"regressed": [], "unclear": [], "held": []}
    found = [*zip(each.comparisons, each.result.tasks, each.planned.tasks, strict=True)]
    says_most = True
    for outcome, lines in told.items():
        for comparison, task, plan in found:
            if comparison.outcome == outcome:
                lines.append(task_reason(comparison, task, plan, each, says_most=says_most))
                outside = outside_words(comparison, task, each, says_most=False)
                says_most = says_most and not outside
    for answers in each.gate.answers or ():
        if answers.outcome != "held":
            told[answers.outcome].append(_answers(answers, each.called))
    kept = {
        outcome: [_kept(one, each.rule) for one in each.gate.kept if one.outcome == outcome]
        for outcome in ("below", "unclear", "kept")
    }
    blocks = each.rule.retention_blocks
    return {
        "refused": [*told["regressed"], *(kept["below"] if blocks else [])],
        "mean": [mean_reason(each)],
        "unclear": told["unclear"],
        "held": [
            *told["held"],
            *([] if blocks else kept["below"]),
            *(f"{line}{_nothing_lost(each) if blocks else ''}" for line in kept["unclear"]),
            *kept["kept"],
        ],
    }


def _compared_with(told: All) -> str:
    """Whom it had to beat, and how sure that has to be."""
    names = [each.called for each in told.found]
    said = f"it has to beat {', '.join(names[:-1])} and {names[-1]}, each of them"
    stays = [each.called for each in told.found if each.baseline.name not in MOVING]
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
        f" {each.called}'s, as an older mergeflow evaluated one of the two"
    )


def _answers(each: AnswersOfTask, baseline: str) -> str:
    if each.what == "length":
        way, times = (
            ("longer", each.now / each.before)
            if each.now > each.before
            else ("shorter", each.before / max(each.now, 1e-9))
        )
        size = f"{number(times)} times {way}" if each.now else "empty"
        return (
            f"answers to {each.task} became {size}: {number(each.now)} characters on average,"
            f" {number(each.before)} of {baseline}'s"
        )
    kinds = {
        "empty": "empty",
        "cut_off": "cut off at the token limit",
        "looping": "repetitions of themselves",
    }
    said = (
        f"of {each.documents} answers to {each.task} {each.now:g} are {kinds[each.what]}, and"
        f" {each.before:g} of {baseline}'s"
    )
    if each.outcome == "unclear":
        return f"{said}: more than is allowed, and perhaps by chance"
    return f"{said}: more than is allowed"


def _kept(each: KeptOfExpert, rule: GateRule) -> str:
    """What was kept of an expert's gain, and whether that is asked for."""
    share = f"{100 * rule.share:g} %"
    said = f"on {each.task} {100 * each.kept:.0f} % of the gain of {each.expert} was kept"
    if each.kept < 0:
        said = f"on {each.task} nothing is left of the gain of {each.expert}"
    elif each.kept > 1:
        said += f" (more than {each.expert} gained itself)"
    if not rule.retention_blocks:
        return said
    if each.outcome == "unclear" and each.kept < 0:
        return f"{said}; that may be chance"
    if each.outcome == "below" and each.kept < 0:
        return f"{said}; the rule asks for {share} (keep_of_experts)"
    asked = f"the {share} that the rule asks for (keep_of_experts)"
    ends = {
        "below": f", surely less than {asked}",
        "kept": f", surely at least {asked}",
        "unclear": f"; the documents cannot tell whether that is truly less than {asked}",
    }
    return said + ends[each.outcome]


def _nothing_lost(each: Against) -> str:
    """Why doubt does not refuse here, as it does where a loss is in doubt."""
    return f". This doubt does not refuse the merge: it is no loss against {each.called}"


def _resolution(gate: CalibratedGate) -> str:
    """What the suite could have shown at all."""
    if gate.visible is not None:
        return (
            f"a gain of about {number(gate.visible)} units on average is seen in these documents"
            " four times of five, a smaller one less often"
        )
    return (
        f"these documents cannot tell less: a mean change is uncertain by about"
        f" {number(gate.change - gate.low)} units"
    )


def _how_sure(found: Sequence[Against], lines: Sequence[str]) -> str:
    """How far the word reaches: of one line, and of the verdict."""
    beyond = 100 * max(each.result.level for each in found)
    wrongly = 100 * max(each.rule.alpha for each in found)
    said = f"a line that says it is wrong in at most {number(beyond)} of 100 evaluations"
    if any(f"{_SURELY} between" in line for line in lines):
        said = (
            f"'{_SURELY} between' is wrong in at most {number(2 * beyond)} of 100 evaluations, any"
            f" other '{_SURELY}' in at most {number(beyond)}"
        )
    return (
        f"'{_SURELY}' is not absolute: {said}. The verdict: of 100 merges that are no better on"
        f" average, or lose more than is allowed, at most {number(wrongly)} are promoted"
    )
