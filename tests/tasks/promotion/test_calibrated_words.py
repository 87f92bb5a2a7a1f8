"""The reasons of the calibrated gate never contradict themselves, whatever was measured."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tasks.promotion.baselines import ComparedWith
from tasks.promotion.rule import PromotionRule
from tasks.records import Decision, EvaluationReport, TaskScore
from tests.support.decisions import decide
from tests.tasks.promotion.test_rule import accuracy_task, bits_task, report

COUNT = 120
FAST, ALL = 30, 300
"""How many cases; of all of them the slow tests."""
NUMBER = r"(\d[0-9.]*(?:e[+-]?\d+)?)"
SPAN = re.compile(
    rf"surely between {NUMBER}( units)?( worse)? and {NUMBER}( units)? (better|worse)"
)
GOT = re.compile(rf"(\w+) got (better|worse) by {NUMBER} ")
AT_LEAST = re.compile(rf"surely at least {NUMBER} (better|worse)")
ALLOWED = re.compile(rf"a loss of {NUMBER} is allowed")
MEAN = re.compile(rf"is (better|worse) than [^,]*? by {NUMBER} units")
ODD = re.compile(
    r"with each document's change cut off at|[wW]ithout the (?:document|\d+ documents) that"
)
"""Words of an interval that need not hold the plain change."""


@dataclass(frozen=True)
class Case:
    """A decision on a candidate against one baseline."""

    before: EvaluationReport
    decision: Decision

    def reason_on(self, task: str) -> str:
        """The first one, of the first baseline."""
        starts = tuple(f"{task} {verb} " for verb in ("got", "came", "scored"))
        prefix = "against the champion: "
        lines = [each.removeprefix(prefix) for each in self.decision.reasons]
        return next(each for each in lines if each.startswith(starts))

    @property
    def mean(self) -> str:
        return next(each for each in self.decision.reasons if "the merged checkpoint" in each)


def score(name: str, metric: str, values: NDArray[np.float64], **more: Any) -> TaskScore:
    """A task with these values of its documents."""
    is_bits = metric in ("bits_per_byte", "byte_perplexity")
    weight, mean = 200.0 if is_bits else 1.0, float(values.mean())
    is_power = metric == "byte_perplexity"
    changes: dict[str, Any] = {
        "metric": metric,
        "values": tuple((values * weight).tolist()),
        "weights": (weight,) * COUNT,
        "score": 2**mean if is_power else mean,
        "higher_is_better": not is_bits,
        "scale": "power_of_two" if is_power else "ratio",
    }
    return bits_task(name, 0, count=COUNT).model_copy(update=changes | more)


def model(
    name: str, source: np.random.Generator, at: float, tail: float, broken: int, shares: list[float]
) -> EvaluationReport:
    """How far off on average, how heavy the tails are, how many answers are no number. Some are
    better everywhere, others in one task and not in the other."""
    ways = [[1], [-1], [-1, 1]][source.choice(3, p=[0.5, 0.2, 0.3])]
    hard = np.random.default_rng(2).random(COUNT)

    def way() -> float:
        return float(at * source.choice(ways))

    def bits() -> NDArray[np.float64]:
        same = np.random.default_rng(1).gamma(9.0, 0.5, COUNT)
        return np.clip(same - way() + tail * source.standard_t(1.5, COUNT), 0.01, 12.0)

    right = (hard < 0.5 + way()).astype(float)
    right = np.where(source.random(COUNT) < min(10 * at, 0.05), 1 - right, right)
    code, lost = bits(), {}
    if broken:
        code[:broken] = 256.0
        lost = {"non_finite": broken, "not_finite_at": tuple(range(broken))}
    return report(
        name,
        score("code", "bits_per_byte", code, task_weight=shares[0], **lost),
        score("text", "byte_perplexity", bits(), task_weight=shares[1]),
        score("quiz", "acc", right, task_weight=shares[2]),
        score("part", "f", np.clip(hard + way() * source.random(COUNT), 0, 1)),
    )


@pytest.fixture(params=[FAST, pytest.param(ALL, marks=pytest.mark.slow)], name="cases")
def chosen(request: pytest.FixtureRequest) -> list[Case]:
    return random_cases(request.param)


@cache
def random_cases(count: int) -> list[Case]:
    """Of models that differ in every way that a reason has words for."""
    source = np.random.default_rng(20261130)
    found = []
    for _ in range(count):
        at = float(source.choice([0, 0.005, 0.05, 0.5]))
        tail = float(source.choice([0, 0.01, 0.2, 3]))
        shares = [float(each) for each in source.choice([0.0, 1.0, 2.0], 3)]
        base = model("base", source, 0, 0, int(source.random() < 0.2), shares)
        merged = model("merged", source, at, tail, int(source.random() < 0.1), shares)
        coder, champion = (model(n, source, at, tail, 0, shares) for n in ("coder", "champion"))
        rule: dict[str, Any] = {}
        if source.random() < 0.3:
            rule["must_hold"] = ["quiz"]
        if source.random() < 0.3:
            rule["exceed"] = float(source.choice([-0.1, 0.2]))
        if source.random() < 0.3:
            rule["keep_of_experts"] = 0.0
        first, more = base, dict[str, Any]()
        if source.random() < 0.3:
            others = [ComparedWith(name="base", report=base)]
            first, more = champion, {"called": "champion", "others": others, "origin": base}
        experts = [coder] if source.random() < 0.2 else []  # to plan from them takes longest
        found.append(Case(first, decide(merged, first, PromotionRule(**rule), experts, **more)))
    return found


def check_inside(size: float, way: str, said: str) -> None:
    """A change lies in the interval that the same sentence has, if it has one."""
    interval = SPAN.search(said)
    if interval:
        low, high = float(interval[1]), float(interval[4])
        if interval[6] == "worse":
            low, high = -high, -low
        elif interval[3]:
            low = -low
        assert low <= (size if way == "better" else -size) <= high, said


def test_the_cases_are_of_every_verdict(cases: list[Case]) -> None:
    verdicts = {case.decision.verdict for case in cases}
    assert verdicts == {"promoted", "fell_back", "inconclusive"}


@pytest.mark.slow
def test_among_all_cases_is_each_sentence() -> None:
    text = "\n".join(reason for case in random_cases(ALL) for reason in case.decision.reasons)
    for said in (
        "That is not due to a few documents: even with each document's change cut off at",
        "Single documents make all of that",
        "Single documents make much of that",
        "Without the document that the base has no number for",
        "The truth may be anything",
        "The true loss may be as small",
        "More documents would end the doubt, but probably not in its favour",
        "Of a merge that loses nothing about",
        ", but the documents are few)",
        "the usual limit is kept too",
        "any one of these would refuse the merge",
        "it must hold",
        "nothing is left",
        "than coder gained itself",
        "no part of that average",
        "where an answer that is no number counts",
        "with each document's change cut off at 0.5 units",
    ):
        assert said in text, said


def test_the_plain_change_lies_in_the_interval_unless_words_say_why_not(cases: list[Case]) -> None:
    for case in cases:
        for comparison in case.decision.comparisons:
            said = case.reason_on(comparison.task)
            is_inside = comparison.low <= comparison.improvement <= comparison.high
            odd = ODD.search(said)
            assert bool(odd) is not is_inside, said
            assert not odd or not SPAN.search(said[: odd.start()]), "two intervals of one change"
            change = GOT.search(said)
            if change and is_inside:
                check_inside(float(change[3]), change[2], said)


def test_at_least_is_less_than_what_was_measured_or_few_documents_are_to_blame(
    cases: list[Case],
) -> None:
    for case in cases:
        for comparison in case.decision.comparisons:
            said = case.reason_on(comparison.task)
            change, least = GOT.search(said), AT_LEAST.search(said)
            if change and least and "ithout the" not in said:
                is_same_way = change[2] == least[2]
                assert ("make all of that" in said) is not is_same_way, said
                assert not is_same_way or float(least[1]) <= float(change[3]), said


def test_a_loss_is_named_as_allowed_only_where_one_may_have_happened(cases: list[Case]) -> None:
    for case in cases:
        for comparison in case.decision.comparisons:
            said = case.reason_on(comparison.task)
            if comparison.outcome == "held" and comparison.low >= 0:
                assert "allowed" not in said, said
            allowed = ALLOWED.search(said)
            if allowed and comparison.outcome == "held":
                assert -comparison.low <= comparison.max_regression
                assert float(allowed[1]) == pytest.approx(comparison.max_regression, rel=6e-3)
                usual = re.search(rf"\(usually {NUMBER}, but the documents are few\)", said)
                is_kept = "the usual limit is kept too" in said
                assert bool(usual) or not is_kept, said
                if usual and is_kept:
                    assert -comparison.low <= float(usual[1]) * 1.01, said
                elif usual:
                    assert -comparison.low > float(usual[1]) * 0.99, said


def test_the_average_agrees_with_the_changes_that_it_is_of(cases: list[Case]) -> None:
    for case in cases:
        gate, said = case.decision.gate, case.mean
        assert gate is not None
        of = [
            (task.share or 0, each.improvement)
            for task, each in zip(gate.tasks, case.decision.comparisons, strict=True)
        ]
        if any("no number" in reason for reason in case.decision.reasons):
            continue
        for way, sign in (("better", 1), ("worse", -1)):
            if all(sign * change > 0 for share, change in of if share):
                opposite = "worse" if way == "better" else "better"
                by_few = ", with each document's change cut off" in said
                assert f"{opposite} than" not in said or by_few, said
        units = MEAN.search(said)
        if units:
            check_inside(float(units[2]), units[1], said)
        in_bits = gate.tasks[1].share  # a perplexity in the table is a power of the bits counted
        if units and not in_bits:
            total = sum(
                share * change / task.unit
                for task, (share, change) in zip(gate.tasks, of, strict=True)
            )
            assert float(units[2]) == pytest.approx(abs(total), rel=6e-3)


def test_units_and_surely_are_explained_once_and_only_where_they_are_used(
    cases: list[Case],
) -> None:
    for case in cases:
        lines = [r for r in case.decision.reasons if not r.startswith(("a unit", "'surely'"))]
        explained = [r for r in case.decision.reasons if r.startswith("a unit makes")]
        assert len(explained) == any(" units" in line for line in lines)
        absolute = [r for r in case.decision.reasons if r.startswith("'surely'")]
        assert len(absolute) == any("surely" in line for line in lines)
        if explained:
            gate = case.decision.gate
            assert gate is not None
            for task in gate.tasks:
                assert (f" for {task.task}" in explained[0]) is bool(task.share)
            first = next(i for i, r in enumerate(case.decision.reasons) if " units" in r)
            assert case.decision.reasons.index(explained[0]) > first
        few = [r for r in case.decision.reasons if "% of how much" in r]
        assert len(few) <= 1 + len(case.decision.others or ())


def test_the_baseline_has_one_name_and_the_margin_one_word(cases: list[Case]) -> None:
    for case in cases:
        text = "\n".join(case.decision.reasons)
        assert "the baseline" not in text
        assert not re.search("ruled out|rule out|lost more;|asked for, and", text)
        if case.decision.verdict == "promoted" and "cannot tell whether" in text:
            assert "This doubt does not refuse the merge: it is no loss against the" in text


def test_a_change_that_many_documents_make_is_not_laid_on_a_few() -> None:
    base = report("base", bits_task("code", 0), accuracy_task("quiz", 200))
    worse = report("merged", bits_task("code", 5), accuracy_task("quiz", 200))
    decision = decide(worse, base, PromotionRule())
    (said,) = [reason for reason in decision.reasons if reason.startswith("code got worse by 5")]
    assert "That is not due to a few documents: even with each document's change cut" in said
    assert "surely between" not in said
    mean = next(reason for reason in decision.reasons if "the merged checkpoint" in reason)
    assert mean.startswith("the merged checkpoint is surely worse than the base on average")
    values = list(base.score("code").values)
    values[0] += 2_000_000
    one = base.score("code").model_copy(
        update={"values": tuple(values), "score": sum(values) / (200 * len(values))}
    )
    decision = decide(report("merged", one, accuracy_task("quiz", 200)), base, PromotionRule())
    said = next(reason for reason in decision.reasons if reason.startswith("code got worse by"))
    assert "Single documents make much of that: with each document's change cut off at" in said


def test_what_one_of_several_tasks_may_show_by_chance_is_not_said_to_be_surely_too_much() -> None:
    """The interval of one task alone would blame it; with its neighbours it is not sure yet."""
    names = ("quiz", "two", "three", "four")
    base = report("base", *(accuracy_task(name, 200) for name in names))
    found = []
    for right in range(140, 180, 2):
        scores = [accuracy_task("quiz", right), *(accuracy_task(name, 210) for name in names[1:])]
        decision = decide(report("merged", *scores), base, PromotionRule())
        quiz = decision.comparisons[0]
        said = next(reason for reason in decision.reasons if reason.startswith("quiz got worse"))
        if quiz.outcome == "unclear" and quiz.high < -quiz.max_regression:
            found.append(said)
        assert ("may look so by chance" in said) is (said in found)
    assert found
