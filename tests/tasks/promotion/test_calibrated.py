"""The calibrated gate on stored evaluations: who is promoted, and why, in plain words."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from merge_core.errors import StepError
from tasks.promotion.rule import PromotionRule
from tasks.promotion.task_measurements import measurement, not_finite
from tasks.records import WORST_BITS, Decision, TaskScore
from tests.support.decisions import believed, decide, decision_key
from tests.support.former_records import former
from tests.tasks.promotion.test_rule import BASE, accuracy_task, bits_task, report

CALIBRATED = PromotionRule(gate="calibrated")
CODER = report("code-expert", bits_task("code", -0.2), accuracy_task("quiz", 240))
BEFORE = report("base", bits_task("code", 0), accuracy_task("quiz", 200))


def answers(task: str, right: np.ndarray[Any, Any], **changes: Any) -> TaskScore:
    """A quiz with an answer for each document."""
    score = accuracy_task(task, 0, len(right))
    values = tuple(right.astype(float).tolist())
    return score.model_copy(update={"values": values, "score": float(right.mean())} | changes)


def test_better_on_the_whole_and_nowhere_worse_is_promoted_in_plain_words() -> None:
    merged = report("merged", bits_task("code", -0.19), accuracy_task("quiz", 235))
    decision = decide(merged, BEFORE, CALIBRATED, [CODER])
    assert (decision.verdict, decision.promote) == ("promoted", True)
    first = decision.reasons[0]
    assert first.startswith("the merged checkpoint is better than the base by 0.1")
    assert first.endswith("that is more than chance")
    text = "\n".join(decision.reasons)
    assert "of 400 documents 35 became right and 0 wrong" in text
    assert "a loss of" not in text, "no task may have lost anything, so nothing has to be allowed"
    assert "a unit makes tasks comparable" in decision.reasons[1], "where it is first used"
    assert decision.gate is not None
    assert decision.gain == decision.gate.change > decision.gate.low > 0
    assert Decision.model_validate_json(decision.model_dump_json()) == decision


def test_what_the_former_gate_promotes_by_noise_is_not_promoted() -> None:
    """Truly three points worse, on twenty documents: the bootstrap sees what happened to change."""
    promoted = {"former": 0, "calibrated": 0}
    former = PromotionRule(min_gain=-1.0)
    source = np.random.default_rng(7)
    for _ in range(60):
        before = source.random(20) < 0.6
        after = np.where(source.random(20) < 0.03, False, before)  # loses, and never gains
        reports = [report(n, answers("quiz", x)) for n, x in (("merged", after), ("base", before))]
        reports[0] = reports[0].model_copy(update={"checkpoint_digest": "m" * 64})
        promoted["former"] += decide(reports[0], reports[1], former).promote
        promoted["calibrated"] += decide(reports[0], reports[1], CALIBRATED).promote
    assert promoted["former"] >= 20, "a true loss, promoted by what twenty documents do not show"
    assert promoted["calibrated"] == 0


def test_a_loss_beyond_the_margin_falls_back_and_a_possible_one_is_inconclusive() -> None:
    worse = report("merged", bits_task("code", -0.19), accuracy_task("quiz", 120))
    decision = decide(worse, BEFORE, CALIBRATED)
    assert decision.verdict == "fell_back"
    assert decision.reasons[0] == "worse than the base on 1 of 2 tasks: 1 by more than is allowed"
    assert decision.reasons[1].startswith("quiz got worse by 0.2 in accuracy, surely between 0.1")
    assert decision.reasons[1].endswith("wrong); a loss of 0.05 is allowed")
    assert [c.outcome for c in decision.comparisons] == ["held", "regressed"]
    perhaps = report("merged", bits_task("code", -0.19), accuracy_task("quiz", 185))
    decision = decide(perhaps, BEFORE, CALIBRATED)
    assert (decision.verdict, decision.promote) == ("inconclusive", False)
    text = "\n".join(decision.reasons)
    assert "so it may or may not be more than is allowed; in doubt the merge is refused" in text
    assert decision.reasons[-1].endswith("the rule keeps the base in that case")
    bolder = PromotionRule(gate="calibrated", on_inconclusive="promote")
    assert decide(perhaps, BEFORE, bolder).promote
    wider = PromotionRule(gate="calibrated", guard_margin=0.2)
    assert decide(perhaps, BEFORE, wider).verdict == "promoted"


def test_how_much_has_to_be_gained_and_how_sure_one_has_to_be() -> None:
    merged = report("merged", bits_task("code", -0.19), accuracy_task("quiz", 202))
    assert decide(merged, BEFORE, CALIBRATED).verdict == "promoted"
    asked = decide(merged, BEFORE, PromotionRule(gate="calibrated", exceed=0.3))
    assert asked.verdict == "fell_back"
    assert asked.reasons[0].endswith("more than 0.3 units is asked for and surely not reached")
    surer = decide(merged, BEFORE, PromotionRule(gate="calibrated", alpha=0.0001))
    assert surer.confidence == pytest.approx(0.9998)
    assert surer.gain_low < decide(merged, BEFORE, CALIBRATED).gain_low


def test_too_little_of_an_expert_is_refused_unless_the_rule_does_not_ask() -> None:
    half = report("merged", bits_task("code", -0.1), accuracy_task("quiz", 240))
    decision = decide(half, BEFORE, CALIBRATED, [CODER])
    assert decision.verdict == "fell_back"
    assert decision.reasons[0].startswith("on code 5")
    assert decision.reasons[0].endswith(
        "surely less than the 80 % that the rule asks for (keep_of_experts)"
    )
    assert decide(half, BEFORE, CALIBRATED).verdict == "promoted", "no expert was evaluated"
    for share in (0.0, 0.3):
        easier = PromotionRule(gate="calibrated", keep_of_experts=share)
        assert decide(half, BEFORE, easier, [CODER, CODER]).verdict == "promoted"


def test_few_documents_say_nothing_and_the_reason_says_how_many_are_needed() -> None:
    base, merged = (report(n, accuracy_task("quiz", x, 19)) for n, x in (("base", 2), ("new", 19)))
    decision = decide(merged, base, CALIBRATED)
    assert decision.verdict == "inconclusive"
    assert "19 documents are too few to judge, 20 are needed" in "\n".join(decision.reasons)


@pytest.mark.parametrize("places", [(3, 399), None])
def test_an_answer_that_is_no_number_is_never_promoted(places: tuple[int, ...] | None) -> None:
    """Also of reports that only count them."""
    right = np.ones(400, dtype=bool)
    right[[3, 399]] = False
    broken = answers("quiz", right, non_finite=2, not_finite_at=places)
    decision = decide(report("merged", bits_task("code", -0.2), broken), BEFORE, CALIBRATED)
    assert decision.verdict == "fell_back"
    assert "2 of 400 answers are not finite numbers, and 0 of the base's" in decision.reasons[0]
    assert decision.comparisons[1].non_finite == (0, 2)
    values = np.asarray(measurement(broken, BEFORE.score("quiz"), {}).candidate)
    assert np.isnan(values).sum() == 2


def test_a_document_that_is_no_number_for_the_baseline_is_left_out() -> None:
    before = accuracy_task("quiz", 200).model_copy(
        update={"non_finite": 1, "not_finite_at": (399,)}
    )
    base = report("base", bits_task("code", 0), before)
    merged = report("merged", bits_task("code", -0.2), accuracy_task("quiz", 230))
    decision = decide(merged, base, CALIBRATED)
    assert decision.verdict == "promoted"
    assert decision.comparisons[1].documents == 399


def test_a_likelihood_that_is_only_counted_is_found_by_the_worst_value() -> None:
    score = bits_task("code", 0)
    values = (*score.values[:-1], WORST_BITS * 200)
    counted = score.model_copy(update={"values": values, "non_finite": 1})
    assert list(not_finite(counted)) == [399]


def test_groups_of_documents_make_a_verdict_less_certain() -> None:
    source = np.random.default_rng(3)
    before = source.random(400) < 0.5
    after = before.copy()
    after[:40] = True  # one passage, read better
    base, merged = (report(n, answers("quiz", x)) for n, x in (("base", before), ("new", after)))
    assert decide(merged, base, CALIBRATED).verdict == "promoted"
    groups = tuple(f"passage {i // 40}" for i in range(400))
    grouped = [
        each.model_copy(
            update={"scores": (each.scores[0].model_copy(update={"clusters": groups}),)}
        )
        for each in (merged, base)
    ]
    decision = decide(grouped[0], grouped[1], CALIBRATED)
    assert decision.verdict == "inconclusive"
    assert decision.gate is not None
    assert decision.gate.tasks[0].groups == 10


def test_members_of_a_group_of_tasks_are_strata() -> None:
    ids = tuple(f"{'ab'[i % 2]}:{i}" for i in range(40))
    score = accuracy_task("quiz", 20, 40).model_copy(update={"doc_ids": ids})
    labels = np.asarray(measurement(score, score, {}).strata)
    assert sorted(set(labels)) == ["a", "b"]
    assert measurement(accuracy_task("q", 1, 40), accuracy_task("q", 2, 40), {}).strata is None


def test_documents_are_matched_in_whatever_order_they_come() -> None:
    quiz = accuracy_task("quiz", 230)
    order = np.random.default_rng(1).permutation(400)
    shuffled = quiz.model_copy(
        update={
            name: tuple(getattr(quiz, name)[i] for i in order) for name in ("doc_ids", "values")
        }
    )
    one, other = (
        decide(report("merged", bits_task("code", -0.2), each), BEFORE, CALIBRATED)
        for each in (quiz, shuffled)
    )
    assert one == other


def test_a_perplexity_is_judged_in_bits_and_told_as_it_is() -> None:
    def perplexity(shift: float) -> TaskScore:
        score = bits_task("code", shift)
        changes = {"metric": "byte_perplexity", "scale": "power_of_two", "score": 2**score.score}
        return score.model_copy(update=changes)

    before, after = perplexity(0), perplexity(-0.19)
    decision = decide(report("merged", after), report("base", before), CALIBRATED)
    (comparison,) = decision.comparisons
    assert decision.verdict == "promoted"
    assert comparison.improvement == pytest.approx(before.score - after.score)
    assert comparison.low < comparison.improvement < comparison.high


def test_other_documents_are_refused_for_experts_too() -> None:
    merged = report("merged", bits_task("code", -0.2), accuracy_task("quiz", 230))
    other = report("expert", bits_task("code", 0), accuracy_task("quiz", 100, 300))
    with pytest.raises(StepError, match="are not of the same documents in task 'quiz'"):
        decide(merged, BEFORE, CALIBRATED, [other])


def test_the_baseline_itself_is_not_promoted() -> None:
    decision = decide(BEFORE, BEFORE, CALIBRATED)
    assert decision.verdict == "fell_back"
    assert "nothing to promote" in decision.reasons[0]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"gate": "former", "exceed": 0.0}, "exceed is a key of the calibrated gate; write `gate"),
        ({"exceed": 0.0, "min_gain": 0.1}, "leave out min_gain, of the former gate, or this"),
        ({"gate": "calibrated", "max_regression": 0.01}, "write guard_margin in its place"),
        ({"gate": "calibrated", "seed": 1}, "seed is no key of the calibrated gate; leave it out"),
        ({"gate": "calibrated", "widest_margin": 0.05}, "below the guard margin of 0.1"),
    ],
)
def test_keys_of_both_gates_are_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said.replace("(", r"\(")):
        PromotionRule(**keys)


def test_a_rule_that_was_written_out_is_read_again() -> None:
    for rule in (PromotionRule(max_regression=0.02), PromotionRule(gate="calibrated", exceed=-0.1)):
        assert PromotionRule(**rule.model_dump()) == rule
        assert PromotionRule.model_validate_json(rule.model_dump_json()) == rule


def test_decisions_of_the_former_gate_keep_their_key_and_their_record() -> None:
    """Both were computed by commit 7d4765d, of evaluations that commit 5eaacac stored."""
    decision = next(iter(former("decide").values()))
    reports = {each.checkpoint_digest: each for each in former("evaluate").values()}
    pair = reports[decision.candidate_digest], reports[decision.baseline_digest]
    key = decision_key(*pair, PromotionRule(gate="former"))
    assert key == "32e90a1be8863f198a472710d905a1d2131e365bdae45c3f4ece91dee912d981"
    record = hashlib.sha256(decision.model_dump_json().encode()).hexdigest()
    assert record == "673a526c53e8b9428cdf1e894150dd2d097d749d7c8e200be34fc4a528eed571"
    assert decision_key(*pair, CALIBRATED) != key


def test_a_stored_decision_is_believed_for_the_rule_that_it_was_made_by() -> None:
    former_rule = PromotionRule(gate="former")
    died = report("merged", failure="it was killed")
    calibrated, former_one, failed = (
        decide(CODER, BEFORE, CALIBRATED),
        decide(CODER, BEFORE, former_rule),
        decide(died, BEFORE, CALIBRATED),
    )
    assert believed(calibrated, CODER, BEFORE, CALIBRATED)
    assert believed(former_one, CODER, BEFORE, former_rule)
    assert believed(failed, died, BEFORE, CALIBRATED)
    assert not believed(calibrated, CODER, BEFORE, former_rule)
    assert not believed(former_one, CODER, BEFORE, CALIBRATED)
    for keys in ({"exceed": 0.1}, {"alpha": 0.01}):
        rule = PromotionRule(gate="calibrated", **keys)
        assert not believed(calibrated, CODER, BEFORE, rule)


def test_a_rule_of_the_former_gate_does_not_load_scipy() -> None:
    code = (
        "import sys; from tests.tasks.promotion.test_rule import BASE, RULE, decide;"
        " decide(BASE, BASE, RULE); assert 'scipy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_report_on_two_tasks_of_text_is_judged_too() -> None:
    merged = report("merged", bits_task("code", -0.2), bits_task("prose", -0.1))
    assert decide(merged, BASE, CALIBRATED).verdict == "promoted"
