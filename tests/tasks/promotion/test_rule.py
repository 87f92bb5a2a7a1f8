"""The decision: who is promoted, who falls back, what cannot be told, and the words for it."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from pydantic import ValidationError

from merge_core.errors import RecipeError, StepError
from tasks.promotion.bootstrap import improvement, pair
from tasks.promotion.rule import PromotionRule
from tasks.records import EvaluationReport, TaskScore
from tests.support.decisions import decide, decision_key

DOCUMENTS = 400
HARDNESS = np.random.default_rng(0).gamma(9.0, 0.5, DOCUMENTS)
NOISE = np.random.default_rng(1).normal(0, 0.05, DOCUMENTS)


def bits_task(task: str, shift: float, noise: float = 1.0, count: int = DOCUMENTS) -> TaskScore:
    """Bits per byte, `shift` above the common hardness of the documents."""
    values = (HARDNESS + shift + noise * NOISE * (shift != 0))[:count] * 200
    return TaskScore(
        task=task,
        metric="bits_per_byte",
        higher_is_better=False,
        score=float(values.sum() / (200 * count)),
        doc_ids=tuple(f"{task}-{i}" for i in range(count)),
        values=tuple(values.tolist()),
        weights=(200.0,) * count,
    )


def accuracy_task(task: str, right: int, count: int = DOCUMENTS) -> TaskScore:
    """The first `right` of `count` documents answered rightly."""
    return TaskScore(
        task=task,
        metric="acc",
        higher_is_better=True,
        score=right / count,
        doc_ids=tuple(f"{task}-{i}" for i in range(count)),
        values=(1.0,) * right + (0.0,) * (count - right),
        weights=(1.0,) * count,
    )


def report(name: str, *scores: TaskScore, **changes) -> EvaluationReport:
    values = {
        "checkpoint_digest": name * 8,
        "reference": f"models/{name}",
        "suite": "s",
        "suite_digest": "d" * 64,
        "lm_eval_version": "0.4.13",
        "transformers_version": "5.0",
        "device": "cpu",
        "scores": scores,
    }
    return EvaluationReport(**{**values, **changes})


BASE = report("base", bits_task("code", 0), bits_task("prose", 0))
RULE = PromotionRule(gate="former")


def test_better_on_every_task_is_promoted():
    decision = decide(
        report("merged", bits_task("code", -0.2), bits_task("prose", -0.1)), BASE, RULE
    )
    assert (decision.verdict, decision.promote) == ("promoted", True)
    assert [c.outcome for c in decision.comparisons] == ["held", "held"]
    expected = (0.2 / BASE.score("code").score + 0.1 / BASE.score("prose").score) / 2
    assert decision.gain == pytest.approx(expected, rel=0.05)
    assert decision.gain_low <= decision.gain <= decision.gain_high
    assert decision.documents == 2 * DOCUMENTS
    assert "prose got better by 0.1" in " ".join(decision.reasons)


def test_one_collapsed_task_falls_back_however_much_the_other_gains():
    merged = report("merged", bits_task("code", 2.3), bits_task("prose", -3.0))
    decision = decide(merged, BASE, RULE)
    assert (decision.verdict, decision.promote) == ("fell_back", False)
    assert decision.gain > 0
    worst = decision.reasons[0]
    assert worst.startswith("code got worse by 2.3 bits per byte (95 % interval 2.")
    assert worst.endswith("at most 0.01 is allowed")


def test_a_loss_within_what_is_allowed_is_held_and_named():
    merged = report("merged", bits_task("code", 0.005, noise=0.01), bits_task("prose", -0.1))
    decision = decide(merged, BASE, RULE)
    assert decision.verdict == "promoted"
    assert any("code got worse by 0.00" in reason for reason in decision.reasons)


def test_a_loss_that_may_exceed_what_is_allowed_is_inconclusive():
    merged = report("merged", bits_task("code", 0.01), bits_task("prose", -0.1))
    decision = decide(merged, BASE, RULE)
    assert (decision.verdict, decision.promote) == ("inconclusive", False)
    assert decision.comparisons[0].outcome == "unclear"
    assert "keeps the baseline" in decision.reasons[-1]
    bolder = RULE.model_copy(update={"on_inconclusive": "promote"})
    decision = decide(merged, BASE, bolder)
    assert (decision.verdict, decision.promote) == ("inconclusive", True)


def test_an_unclear_task_says_how_many_documents_would_settle_it():
    base = report("base", accuracy_task("quiz", 200))
    merged = report("merged", accuracy_task("quiz", 197))
    reason = decide(merged, base, RULE).reasons[0]
    # 3 of 400 changed: half the interval is 0.00875, 0.0025 is the distance to what is allowed
    assert "quiz got worse by 0.0075 in accuracy" in reason
    assert "more than the 0.01 allowed: about 5000 documents would settle it (now 400)" in reason


def test_a_gain_that_is_certainly_too_small_falls_back():
    merged = report("merged", bits_task("code", -0.02), bits_task("prose", -0.02))
    decision = decide(merged, BASE, PromotionRule(min_gain=0.05))
    assert decision.verdict == "fell_back"
    assert "certainly less" in decision.reasons[-1]


def test_a_gain_whose_interval_spans_what_is_required_is_inconclusive():
    merged = report("merged", bits_task("code", -0.2), bits_task("prose", -0.2))
    gain = decide(merged, BASE, RULE).gain
    decision = decide(merged, BASE, PromotionRule(min_gain=gain))
    assert decision.verdict == "inconclusive"
    assert [c.outcome for c in decision.comparisons] == ["held", "held"]


def test_a_single_task_can_be_given_more_room():
    merged = report("merged", bits_task("code", 0.05), bits_task("prose", -1.0))
    assert decide(merged, BASE, RULE).verdict == "fell_back"
    roomy = PromotionRule(per_task={"code": 0.1})
    decision = decide(merged, BASE, roomy)
    assert decision.verdict == "promoted"
    assert [c.max_regression for c in decision.comparisons] == [0.1, 0.01]


def test_the_baseline_itself_is_never_promoted():
    decision = decide(BASE, BASE, RULE)
    assert (decision.verdict, decision.promote) == ("fell_back", False)
    assert "nothing to promote" in decision.reasons[0]
    assert (decision.gain, decision.gain_low, decision.gain_high) == (0, 0, 0)


def test_other_weights_that_score_alike_hold_and_gain_exactly_nothing():
    twin = report("twin", *BASE.scores)
    decision = decide(twin, BASE, RULE)
    assert decision.verdict == "promoted"
    assert "scored alike on each of 400 documents" in decision.reasons[0]
    assert decide(twin, BASE, PromotionRule(min_gain=0.001)).verdict == "fell_back"


def test_too_few_documents_never_decide():
    base = report("base", bits_task("code", 0, count=8))
    for shift in (-1.0, 1.0):
        decision = decide(report("merged", bits_task("code", shift, count=8)), base, RULE)
        assert decision.comparisons[0].outcome == "unclear"
        assert "8 documents are too few to judge" in decision.reasons[0]


def test_accuracy_and_bits_are_oriented_so_that_positive_is_better():
    base = report("base", accuracy_task("quiz", 200), bits_task("code", 0))
    merged = report("merged", accuracy_task("quiz", 240), bits_task("code", -0.3))
    decision = decide(merged, base, RULE)
    quiz, code = decision.comparisons
    assert quiz.improvement == pytest.approx(0.1)
    assert code.improvement == pytest.approx(0.3, abs=0.02)
    # 40 of 400 documents changed from wrong to right: binomial interval 0.1 +- 1.96 * 0.015
    assert quiz.low == pytest.approx(0.1 - 1.96 * 0.015, abs=0.005)
    assert quiz.high == pytest.approx(0.1 + 1.96 * 0.015, abs=0.005)


def test_a_baseline_that_scores_zero_does_not_make_the_gain_infinite():
    base = report("base", accuracy_task("quiz", 0))
    decision = decide(report("merged", accuracy_task("quiz", 40)), base, RULE)
    assert decision.gain == pytest.approx(10.0)
    json.loads(decision.model_dump_json())


def test_the_same_reports_give_the_same_decision():
    merged = report("merged", bits_task("code", -0.01), bits_task("prose", 0.01))
    assert decide(merged, BASE, RULE) == decide(merged, BASE, RULE)


def test_the_order_of_documents_does_not_change_the_decision():
    def shuffled(score: TaskScore, seed: int) -> TaskScore:
        order = random.Random(seed).sample(range(DOCUMENTS), DOCUMENTS)
        columns = {
            name: tuple(getattr(score, name)[i] for i in order)
            for name in ("doc_ids", "values", "weights")
        }
        return score.model_copy(update=columns)

    scores = bits_task("code", -0.02), bits_task("prose", 0.004)
    straight = decide(report("merged", *scores), BASE, RULE)
    moved = report("merged", *(shuffled(score, i) for i, score in enumerate(scores)))
    assert decide(moved, BASE, RULE) == straight


def test_the_order_of_tasks_changes_nothing_but_the_order_of_rows():
    scores = bits_task("code", -0.02), bits_task("prose", 0.004)
    straight = decide(report("merged", *scores), BASE, RULE)
    turned = decide(
        report("merged", *reversed(scores)), report("base", *reversed(BASE.scores)), RULE
    )
    assert turned.comparisons == tuple(reversed(straight.comparisons))
    assert (turned.verdict, turned.gain, turned.gain_low, turned.gain_high) == (
        straight.verdict,
        straight.gain,
        straight.gain_low,
        straight.gain_high,
    )


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (report("base", bits_task("code", 0, count=300), BASE.scores[1]), "not of the same doc"),
        (report("base", BASE.scores[1]), "not of the same documents in task 'code'"),
        (report("base", *BASE.scores, suite_digest="e" * 64), "different suites"),
        (report("base", *BASE.scores, lm_eval_version="0.5"), "different lm-eval versions"),
        (report("base", *BASE.scores, device="cuda:0"), "different kinds of device"),
    ],
)
def test_reports_that_are_not_comparable_are_refused(other, message):
    with pytest.raises(StepError, match=message):
        decide(report("merged", *BASE.scores), other, RULE)


def test_an_expert_of_another_suite_is_refused():
    other = report("expert", *BASE.scores, suite_digest="e" * 64)
    with pytest.raises(StepError, match="different suites"):
        decide(report("merged", *BASE.scores), BASE, RULE, [other])


@pytest.mark.parametrize("lost", [1, 3, 7, 29])
@pytest.mark.parametrize("count", [100, 300, 700])
def test_a_loss_of_exactly_what_is_allowed_is_no_more_than_that(count: int, lost: int):
    """0.59 - 0.6 is below -0.01 in floats; 59 of 100 is not below 60 of 100 by more than 0.01."""
    for right in range(lost, count + 1, 7):
        before, after = (accuracy_task("quiz", some, count) for some in (right, right - lost))
        paired = pair(after, before)
        assert improvement(paired, higher_is_better=True) == -lost / count


def test_every_document_lost_in_every_redraw_still_meets_a_limit_of_that_size():
    base, merged = accuracy_task("quiz", 60, 60), accuracy_task("quiz", 0, 60)
    rule = PromotionRule(max_regression=1.0, min_gain=-1.0)
    assert decide(report("merged", merged), report("base", base), rule).verdict == "promoted"


def broken(score: TaskScore, count: int) -> TaskScore:
    """A score whose first `count` documents were not finite, as an evaluation records them."""
    values = (0.0,) * count + score.values[count:]
    return score.model_copy(update={"values": values, "non_finite": count})


@pytest.mark.parametrize("count", [1, DOCUMENTS])
@pytest.mark.parametrize("on_inconclusive", ["fall_back", "promote"])
def test_a_candidate_with_more_answers_that_are_no_numbers_never_passes(count, on_inconclusive):
    """Both score 0 on every document, so scores alone would call them alike."""
    base = report("base", accuracy_task("quiz", 0))
    merged = report("merged", broken(accuracy_task("quiz", 0), count))
    rule = PromotionRule(min_gain=-1.0, max_regression=1.0, on_inconclusive=on_inconclusive)
    decision = decide(merged, base, rule)
    assert (decision.verdict, decision.promote) == ("fell_back", False)
    assert (
        f"{count} of 400 answers are not finite numbers, and 0 of the baseline's"
        in (decision.reasons[0])
    )


def test_a_baseline_that_answers_nan_cannot_be_compared_with():
    merged = report("merged", accuracy_task("quiz", 300))
    few = report("base", broken(accuracy_task("quiz", 200), 4))
    assert decide(merged, few, RULE).verdict == "promoted"
    many = report("base", broken(accuracy_task("quiz", 200), 5))
    with pytest.raises(StepError, match="no finite acc for 5 of 400 documents of the task 'quiz'"):
        decide(merged, many, RULE)


def test_documents_that_were_asked_with_other_prompts_are_told():
    def asked(score: TaskScore, template: str) -> TaskScore:
        prompts = tuple(f"{template}-{i}" for i in range(DOCUMENTS))
        return score.model_copy(update={"prompt_hashes": prompts})

    quiz, better = accuracy_task("quiz", 200), accuracy_task("quiz", 260)
    base = report("base", asked(quiz, "chatml"))
    alike = decide(report("merged", asked(better, "chatml")), base, RULE)
    assert not any("other prompts" in reason for reason in alike.reasons)
    other = decide(report("merged", asked(better, "llama")), base, RULE)
    assert "400 of its 400 documents were asked with other prompts" in other.reasons[0]
    unknown = decide(report("merged", better), base, RULE)
    assert not any("other prompts" in reason for reason in unknown.reasons)


def test_a_rule_for_an_unknown_task_is_an_error_with_the_likely_name():
    with pytest.raises(RecipeError, match="no task 'cod'") as caught:
        decide(BASE, BASE, PromotionRule(per_task={"cod": 0.1}))
    assert "did you mean 'code'?" in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"max_regression": -0.1},
        {"per_task": {"code": -0.1}},
        {"confidence": 1.0},
        {"resamples": 10},
        {"on_inconclusive": "shrug"},
        {"max_regresion": 0.1},
        {"min_gain": float("nan")},
    ],
)
def test_a_rule_out_of_bounds_is_refused(values):
    with pytest.raises(ValidationError):
        PromotionRule(**values)


def test_every_field_of_the_rule_has_what_a_form_needs():
    fields = PromotionRule.model_json_schema()["properties"]
    assert sorted(field["position"] for field in fields.values()) == list(range(len(fields)))
    assert all(field["title"] and field["description"] for field in fields.values())


def test_the_cache_key_changes_with_the_rule_the_reports_and_the_experts():
    merged = report("merged", bits_task("code", -0.2), bits_task("prose", -0.1))
    keys = {
        decision_key(merged, BASE, RULE),
        decision_key(merged, BASE, PromotionRule(seed=5)),
        decision_key(BASE, merged, RULE),
        decision_key(merged, BASE, RULE, [BASE]),
    }
    assert len(keys) == 4
    assert decision_key(merged, BASE, RULE) == decision_key(
        merged, BASE, PromotionRule(gate="former")
    )
