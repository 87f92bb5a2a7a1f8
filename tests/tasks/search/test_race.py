"""Races: the order of the documents, who loses and when, and what is said of a loser."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.promotion.choice import with_choice
from tasks.promotion.objective import mean_change
from tasks.promotion.rule import PromotionRule
from tasks.records import EvaluationReport, LooksTaken, TaskScore
from tasks.search.plots import importance_png, pareto_png, sweep_png
from tasks.search.race import Race, can_be_raced, change_against, judged, rungs_of
from tasks.search.selection import best, candidates, pareto_front
from tasks.search.trial import Result, Trial
from tests.support.decisions import decide
from tests.tasks.promotion.test_rule import accuracy_task, bits_task, report

BASE = report("base", bits_task("code", 0), accuracy_task("quiz", 200))
EXPERT = report("expe", bits_task("code", -0.3), accuracy_task("quiz", 220))
GOOD = report("good", bits_task("code", -0.2), accuracy_task("quiz", 210))
FAILED = Result(outcome="failed", recipe="", why="it overflows")
BAD = report("bad", bits_task("code", 0.2), accuracy_task("quiz", 190))


def part(whole: EvaluationReport, race: Race, taken: int) -> EvaluationReport:
    """What a race has seen of a candidate by a rung."""

    def of(score: TaskScore, rungs: list[int]) -> TaskScore:
        kept = [place for place, rung in enumerate(rungs) if rung <= taken]
        fields = ("values", "weights", "doc_ids")
        changes = {name: tuple(getattr(score, name)[k] for k in kept) for name in fields}
        return score.model_copy(update=changes)

    scores = tuple(map(of, whole.scores, race.of_documents()))
    told = LooksTaken(number=race.number, taken=taken, by=race.by)
    return whole.model_copy(update={"scores": scores, "looks": told})


def race(incumbent: EvaluationReport = GOOD) -> Race:
    rungs = rungs_of(BASE, [EXPERT])
    assert rungs is not None
    return Race(BASE, incumbent, rungs)


def test_rungs_grow_and_each_document_has_one() -> None:
    first, second = race().of_documents()
    assert first == race().of_documents()[0], "no chance in it"
    for rungs in (first, second):
        sizes = [rungs.count(rung) for rung in range(1, max(rungs) + 1)]
        assert sum(sizes) == 400
        assert sizes == [25, 25, 50, 100, 200]


def test_a_rung_takes_whole_groups() -> None:
    clusters = tuple(f"file {i // 4}" for i in range(400))
    base = report("base", BASE.scores[0].model_copy(update={"clusters": clusters}))
    [rungs] = rungs_of(base, []) or ()
    assert all(len(set(rungs[start : start + 4])) == 1 for start in range(0, 400, 4))


def test_the_first_rung_has_telling_documents_in_their_true_share() -> None:
    values = np.array(BASE.scores[1].values)
    chosen = np.random.default_rng(5).permutation(400)[:100]
    values[chosen] = 1.0 - values[chosen]
    other = BASE.scores[1].model_copy(update={"values": tuple(values.tolist())})
    [rungs] = rungs_of(report("base", BASE.scores[1]), [report("expe", other)]) or ()
    seen = [place for place, rung in enumerate(rungs) if rung == 1]
    telling = set(chosen.tolist())
    assert sum(place in telling for place in seen) / len(seen) == pytest.approx(0.25, abs=0.04)


def test_few_documents_are_not_divided() -> None:
    small = report("base", bits_task("code", 0, count=30))
    assert rungs_of(small, []) is None


def test_a_worse_candidate_loses_early_and_a_better_one_never() -> None:
    running = race()
    assert not running.goes_on(part(BAD, running, 1))
    better = report("bett", bits_task("code", -0.4), accuracy_task("quiz", 230))
    assert all(running.goes_on(part(better, running, rung)) for rung in range(1, running.number))
    assert all(running.goes_on(part(GOOD, running, rung)) for rung in range(1, running.number))


def test_what_stops_a_race_is_part_of_its_digest() -> None:
    assert race().by == race().by
    assert race().by != race(BAD).by


def test_the_objective_is_that_of_the_gate() -> None:
    primary = judged(GOOD, BASE).primary
    decision = decide(GOOD, BASE, PromotionRule())
    assert decision.gate is not None
    assert primary.change == decision.gate.change == mean_change(GOOD, BASE)
    assert (primary.low, primary.high) == (decision.gate.low, decision.gate.high)


def test_a_losers_number_stays_below_that_of_the_best() -> None:
    running = race()
    beside = change_against(part(BAD, running, 2), GOOD, BASE)
    assert beside.high < 0
    whole = mean_change(BAD, BASE) - mean_change(GOOD, BASE)
    assert beside.change == pytest.approx(whole, rel=0.5)


def test_a_broken_model_is_no_incumbent() -> None:
    broken = GOOD.scores[0].model_copy(update={"non_finite": 5, "not_finite_at": tuple(range(5))})
    assert can_be_raced(GOOD)
    assert not can_be_raced(report("brok", broken, GOOD.scores[1]))


def trial(number: int, one: float, two: float, outcome: str = "whole") -> Trial:
    tasks = {"one": one, "two": two}
    return Trial(
        number=number,
        values={"a": number},
        result=Result(outcome=outcome, recipe=str(number), objective=(one + two) / 2, tasks=tasks),
    )


def test_the_best_was_evaluated_on_every_document() -> None:
    trials = [trial(0, 0.1, 0.1), trial(1, 0.9, 0.9, "lost"), trial(2, 0.2, 0.0), trial(3, 0, 0.3)]
    assert best(trials) == trials[3]
    assert best([trial(4, 1, 1, "lost")]) is None
    assert best([trial(5, 0.1, 0.1), trial(6, 0.1, 0.1)]) == trial(5, 0.1, 0.1), (
        "the first of equals"
    )
    assert [each.number for each in pareto_front(trials)] == [0, 2, 3]
    assert pareto_front([*trials, trial(7, 0.3, 0.3)]) == [trial(7, 0.3, 0.3)]


def test_the_pictures_are_drawn_of_what_there_is() -> None:
    trials = [trial(0, 0.1, 0.1), trial(1, 0.9, 0.9, "lost"), trial(2, 0.2, 0.0), trial(3, 0, 0.3)]
    for picture in (sweep_png(trials), pareto_png(trials), importance_png({"a": 0.9, "b": 0.1})):
        assert picture is not None
        assert picture.startswith(b"\x89PNG")
    assert pareto_png(trials) == pareto_png([each for each in trials if each.number != 1])
    assert sweep_png([trial(0, 0, 0, "failed").model_copy(update={"result": FAILED})]) is None
    assert pareto_png([]) is importance_png({"a": 1.0}) is None


def test_the_number_of_candidates_counts_each_merge_once() -> None:
    twice = [trial(0, 0, 0), trial(0, 0, 0), trial(1, 0, 0, "lost"), trial(2, 0, 0, "failed")]
    assert candidates(twice) == 2


def test_a_decision_tells_among_how_many_it_was_chosen() -> None:
    decision = decide(GOOD, BASE, PromotionRule())
    chosen = with_choice(decision, 30, 600)
    assert (chosen.verdict, chosen.promote) == (decision.verdict, decision.promote)
    assert chosen.candidates == 30
    assert chosen.reasons[:-1] == decision.reasons
    assert chosen.reasons[-1].startswith("chosen among 30 candidates by 600 documents")
    assert "candidates" not in decision.model_dump(mode="json"), "kept decisions keep their digest"


@pytest.mark.slow
def test_the_best_of_thirty_equal_candidates_is_promoted_no_more_often_than_one() -> None:
    chance = np.random.default_rng(11)
    hardness = chance.gamma(9.0, 0.5, 400)

    def equal(name: str, half: str) -> EvaluationReport:
        values = (hardness[:200] + chance.normal(0, 0.3, 200)) * 100
        score = BASE.scores[0].model_copy(
            update={
                "values": tuple(values.tolist()),
                "weights": (100.0,) * 200,
                "doc_ids": tuple(f"{half}-{place}" for place in range(200)),
                "score": float(values.sum() / 20000),
            }
        )
        return report(name, score)

    promoted, rounds, most = 0, 150, 0.0
    for _ in range(rounds):
        base = equal("base", "search")
        found = [mean_change(equal(f"c{number}", "search"), base) for number in range(30)]
        most += max(found) / rounds
        # Its documents of the other half were drawn apart: which of the thirty it is tells nothing.
        chosen = decide(
            equal(f"c{int(np.argmax(found))}", "d"), equal("base", "d"), PromotionRule()
        )
        promoted += chosen.promote
    assert most > 0.02, "the best of thirty looks better than it is"
    assert promoted / rounds <= 0.05
