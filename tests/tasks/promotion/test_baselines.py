"""Whom a candidate has to beat: one baseline or several, each surely enough."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from tasks.promotion.baselines import ComparedWith
from tasks.promotion.objective import best_of, mean_change
from tasks.promotion.rule import PromotionRule
from tasks.records import Decision
from tests.support.decisions import believed, decide, decision_key
from tests.tasks.promotion.test_rule import accuracy_task, bits_task, report

BASE = report("base", bits_task("code", 0), accuracy_task("quiz", 200))
CHAMPION = report("champion", bits_task("code", -0.1), accuracy_task("quiz", 220))
MERGED = report("merged", bits_task("code", -0.19), accuracy_task("quiz", 245))
BOTH = PromotionRule(baseline=["champion", "base"])


def against(candidate: Any, rule: PromotionRule = BOTH) -> Decision:
    others = [ComparedWith(name="base", report=BASE)]
    return decide(candidate, CHAMPION, rule, called="champion", others=others)


def test_both_have_to_be_beaten() -> None:
    decision = against(MERGED)
    assert decision.verdict == "promoted"
    assert decision.baselines == ("champion", "base")
    assert Decision.model_validate_json(decision.model_dump_json()) == decision
    between = report("merged", bits_task("code", -0.05), accuracy_task("quiz", 215))
    assert decide(between, BASE, PromotionRule()).verdict == "promoted"
    refused = against(between)
    assert refused.verdict == "fell_back"
    assert any(
        reason.startswith("against the champion: the merged checkpoint is worse")
        for reason in refused.reasons
    )
    assert [each.verdict for each in refused.others or ()] == ["promoted"]


def test_what_stays_is_to_be_beaten_more_surely_and_the_reason_says_so() -> None:
    decision = against(MERGED)
    assert decision.gate is not None
    assert decision.gate.alpha == 0.025
    assert decision.others is not None
    assert decision.others[0].gate.alpha == pytest.approx(0.025 / 60)
    assert decision.nights == 60
    assert any(
        "the base is the same in every run, so it has to be beaten more surely: 60 runs share the"
        " 2.5 % of wrong promotions" in reason
        for reason in decision.reasons
    )
    week = against(MERGED, PromotionRule(baseline=["champion", "base"], nights=7))
    assert week.others is not None
    assert week.others[0].gate.alpha == pytest.approx(0.025 / 7)


def test_a_single_baseline_has_all_of_alpha_unless_nights_are_written() -> None:
    alone = decide(MERGED, BASE, PromotionRule()).gate
    shared = decide(MERGED, BASE, PromotionRule(nights=30)).gate
    champion = decide(MERGED, CHAMPION, PromotionRule(nights=30), called="champion").gate
    assert alone is not None
    assert shared is not None
    assert champion is not None
    assert (alone.alpha, champion.alpha) == (0.025, 0.025)
    assert shared.alpha == pytest.approx(0.025 / 30)


def test_the_weights_of_any_baseline_are_nothing_to_promote() -> None:
    decision = against(BASE.model_copy(update={"reference": "again"}))
    assert decision.verdict == "fell_back"
    assert "nothing to promote" in decision.reasons[0]


def test_what_is_kept_of_an_expert_is_measured_from_what_it_was_made_from() -> None:
    """Next to a champion that has half of the gain already, the expert gains less."""
    expert = report("expert", bits_task("code", -0.2), accuracy_task("quiz", 240))
    merged = report("merged", bits_task("code", -0.19), accuracy_task("quiz", 238))
    decision = decide(merged, CHAMPION, PromotionRule(), [expert], called="champion", origin=BASE)
    assert decision.gate is not None
    gains = {each.task: (each.gain, each.kept) for each in decision.gate.kept}
    assert gains["quiz"] == (pytest.approx(0.1), pytest.approx(0.95))


def test_a_decision_is_cached_by_all_that_was_compared() -> None:
    others = [ComparedWith(name="base", report=BASE)]
    keys = {
        decision_key(MERGED, CHAMPION, BOTH),
        decision_key(MERGED, CHAMPION, BOTH, (), "champion"),
        decision_key(MERGED, CHAMPION, BOTH, (), "champion", others),
        decision_key(MERGED, CHAMPION, BOTH, (), "champion", others, BASE),
    }
    assert len(keys) == 4
    made = against(MERGED)
    asked = (made, MERGED, CHAMPION, BOTH, ())
    assert believed(*asked, "champion", others)
    assert not believed(*asked, "champion", [])
    assert not believed(*asked, "base", others)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"baseline": "chmpion"}, "'chmpion' is no baseline; did you mean 'champion'"),
        ({"baseline": []}, "name at least one baseline"),
        ({"baseline": ["base", "base"]}, "'base' is there twice"),
        ({"baseline": 3}, "write a name, or a list of names"),
        ({"baseline": ["champion", "base"], "min_gain": 0}, "several baselines are for the cal"),
        ({"baseline": "latest"}, "'latest' is no baseline"),
    ],
)
def test_a_baseline_that_means_nothing_is_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        PromotionRule(**keys)


def test_a_reference_is_a_baseline() -> None:
    for reference in ("./anchor", "org/name@main", "models:/mine@champion", "$MERGEFLOW_ZOO/base"):
        assert PromotionRule(baseline=reference).baselines == (reference,)
    assert PromotionRule(baseline=["base"]).baseline == "base"


def test_the_best_of_several_is_the_best_by_the_rules_own_measure() -> None:
    """A task that is only guarded counts nothing."""
    coder = report("coder", bits_task("code", -0.2), accuracy_task("quiz", 180))
    quizzer = report("quizzer", bits_task("code", -0.01), accuracy_task("quiz", 300))
    assert best_of([coder, quizzer], BASE) == 1
    only_text = [
        each.model_copy(
            update={
                "scores": (
                    each.scores[0],
                    each.scores[1].model_copy(update={"task_weight": 0.0}),
                )
            }
        )
        for each in (coder, quizzer, BASE)
    ]
    assert best_of(only_text[:2], only_text[2]) == 0
    assert mean_change(BASE, BASE) == 0
    assert np.sign(mean_change(coder, quizzer)) == -1
