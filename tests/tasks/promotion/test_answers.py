"""Bounds on empty, cut-off and looping answers, and on how long answers are."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.promotion.rule import PromotionRule
from tasks.records import Decision
from tests.support.decisions import decide
from tests.tasks.promotion.test_rule import accuracy_task, report

RULE = PromotionRule()


def decided(rule: PromotionRule = RULE, before: Any = None, **now: Any) -> Decision:
    """A merge that is better, whose answers have another form."""
    counts = {"empty": 2, "cut_off": 0, "looping": 0, "answer_characters": 40_000} | (before or {})
    base = accuracy_task("quiz", 200).model_copy(update=counts)
    merged = accuracy_task("quiz", 230).model_copy(update=counts | now)
    return decide(report("merged", merged), report("base", base), rule)


def test_a_better_merge_whose_answers_have_the_same_form_is_promoted() -> None:
    assert decided().verdict == "promoted"
    assert decided(empty=0, cut_off=0, answer_characters=30_000).verdict == "promoted"


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({"empty": 60}, "of 400 answers to quiz 60 are empty, and 2 of the base's"),
        ({"cut_off": 60}, "60 are cut off at the token limit, and 0 of the base's"),
        ({"looping": 60}, "60 are repetitions of themselves, and 0 of the base's"),
        ({"answer_characters": 100_000}, "became 2.5 times longer: 250 characters on average, 100"),
        ({"answer_characters": 10_000}, "became 4 times shorter: 25 characters on average, 100"),
        ({"answer_characters": 0}, "became empty: 0 characters on average"),
    ],
)
def test_answers_of_another_form_are_refused_with_their_numbers(now: Any, said: str) -> None:
    decision = decided(**now)
    assert decision.verdict == "fell_back"
    assert said in decision.reasons[0]
    assert decision.gate is not None
    assert [each.outcome for each in decision.gate.answers or ()].count("regressed") == 1


def test_a_few_more_are_allowed_and_what_may_be_chance_is_inconclusive() -> None:
    assert decided(empty=22).verdict == "promoted", "20 more of 400 are five of a hundred"
    small = PromotionRule(odd_answers=0.01)
    perhaps = decided(small, {"empty": 10}, empty=15)
    assert perhaps.verdict == "inconclusive"
    assert "more than is allowed, and perhaps by chance" in "\n".join(perhaps.reasons)


def test_both_bounds_are_keys_of_the_rule() -> None:
    lenient = PromotionRule(odd_answers=1.0, answer_length=1000.0)
    assert decided(lenient, empty=400, answer_characters=200).verdict == "promoted"


def test_an_evaluation_that_did_not_count_is_not_held_against_anybody() -> None:
    before = {"looping": None, "answer_characters": None}
    decision = decided(before=before, looping=390, answer_characters=9)
    assert decision.verdict == "promoted"
    assert "repetitions and lengths of answers to quiz are not compared with the base's" in (
        "\n".join(decision.reasons)
    )
