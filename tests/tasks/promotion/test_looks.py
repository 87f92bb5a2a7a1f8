"""An evaluation that is looked at on its way: when it stops, and what it can be used for."""

from __future__ import annotations

import pytest

from merge_core.errors import StepError
from tasks.promotion.looks import Looks
from tasks.promotion.rule import PromotionRule
from tasks.records import EvaluationReport, LooksTaken, TaskScore
from tests.support.decisions import decide
from tests.tasks.promotion.test_rule import accuracy_task, bits_task, report

RULE = PromotionRule(looks=5, keep_of_experts=0.0)
BASE = report("base", bits_task("code", 0), accuracy_task("quiz", 200))


def part(whole: EvaluationReport, looks: Looks, taken: int) -> EvaluationReport:
    """What an evaluation has seen by a look."""

    def of(score: TaskScore, seen_at: list[int]) -> TaskScore:
        kept = [place for place, look in enumerate(seen_at) if look <= taken]
        values, weights, ids = (
            tuple(each[place] for place in kept)
            for each in (score.values, score.weights, score.doc_ids)
        )
        total = sum(values) / sum(weights)
        changes = {"values": values, "weights": weights, "doc_ids": ids, "score": total}
        return score.model_copy(update=changes)

    scores = tuple(map(of, whole.scores, looks.of_documents()))
    told = LooksTaken(number=looks.number, taken=taken, by=looks.by)
    return whole.model_copy(update={"scores": scores, "looks": told})


def stops_at(candidate: EvaluationReport, looks: Looks) -> int:
    for taken in range(1, looks.number):
        if not looks.goes_on(part(candidate, looks, taken)):
            return taken
    return looks.number


def test_shares_are_fixed_equal_and_whole_in_groups() -> None:
    grouped = tuple(f"file {i // 8}" for i in range(400))
    clustered = BASE.scores[1].model_copy(update={"clusters": grouped})
    looks = Looks(RULE, report("base", BASE.scores[0], clustered))
    first, second = looks.of_documents()
    assert (first, second) == tuple(looks.of_documents()), "no chance in it"
    assert [first.count(look) for look in range(1, 6)] == [80] * 5
    for start in range(0, 400, 8):
        assert len(set(second[start : start + 8])) == 1
    assert [second.count(look) for look in range(1, 6)] == [80] * 5


def test_a_clearly_worse_candidate_stops_early_and_says_so() -> None:
    looks = Looks(RULE, BASE)
    worse = report("worse", bits_task("code", 0.4), accuracy_task("quiz", 150))
    taken = stops_at(worse, looks)
    assert taken <= 2
    decision = decide(part(worse, looks, taken), BASE, RULE)
    assert (decision.verdict, decision.promote) == ("fell_back", False)
    assert (
        f"ended at look {taken} of 5, after {160 * taken} of 800 documents"
        in (decision.reasons[-1])
    )
    better = report("better", bits_task("code", -0.9), accuracy_task("quiz", 300))
    at = stops_at(better, looks)
    assert at < 5, "what is clearly better needs not all of them either"
    assert decide(part(better, looks, at), BASE, RULE).promote


def test_what_was_stopped_by_one_rule_decides_for_no_other() -> None:
    looks = Looks(RULE, BASE)
    worse = report("worse", bits_task("code", 0.4), accuracy_task("quiz", 150))
    stopped = part(worse, looks, 1)
    for rule, base in (
        (PromotionRule(looks=5, keep_of_experts=0.0, exceed=-1.0), BASE),
        (PromotionRule(looks=2, keep_of_experts=0.0), BASE),
        (PromotionRule(keep_of_experts=0.0), BASE),
        (RULE, BASE.model_copy(update={"checkpoint_digest": "another"})),
    ):
        with pytest.raises(
            StepError, match=r"another rule, or other baselines, decided .* 1 of 5 looks"
        ):
            decide(stopped, base, rule)
    with pytest.raises(StepError, match="another rule, or other baselines"):
        decide(stopped, BASE, PromotionRule(gate="former"))
    with pytest.raises(StepError, match="stopped early, at look 1 of 5"):
        decide(worse, stopped.model_copy(update={"suite_digest": BASE.suite_digest}), RULE)


def test_a_whole_evaluation_is_the_last_look() -> None:
    whole = report("better", bits_task("code", -0.9), accuracy_task("quiz", 300))
    looks = Looks(RULE, BASE)
    told = decide(whole, BASE, RULE)
    assert told.reasons == decide(part(whole, looks, 5), BASE, RULE).reasons
    alone = decide(whole, BASE, PromotionRule(keep_of_experts=0.0))
    assert told.confidence > alone.confidence, "looks cost a little at the end"
