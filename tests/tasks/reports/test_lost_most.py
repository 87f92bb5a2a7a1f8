"""The documents on which a candidate lost most, and McNemar's p, on the page of a decision."""

from __future__ import annotations

import re

import pytest
from scipy import stats

from tasks.promotion.rule import PromotionRule
from tasks.reports.decision import decision_markdown
from tasks.reports.lost_most import lost_most
from tasks.statistics.mcnemar import mcnemar_p
from tests.support.decisions import decide
from tests.tasks.promotion.test_rule import accuracy_task, bits_task, report

BASE = report("base", bits_task("code", 0), accuracy_task("quiz", 200))


def test_the_costliest_documents_come_first_whatever_way_is_better() -> None:
    before = BASE.score("code")
    values = list(before.values)
    values[7] += 3000.0
    values[3] += 5000.0
    values[9] -= 9000.0
    found = lost_most(before, before.model_copy(update={"values": tuple(values)}))
    assert [each.place for each in found] == [3, 7]
    assert found[0].document == before.doc_ids[3]
    assert found[0].change == pytest.approx(-5000.0 / before.weights[3])
    quiz = BASE.score("quiz")
    right = quiz.values.index(1.0)
    wrong = tuple(0.0 if i == right else value for i, value in enumerate(quiz.values))
    (lost,) = lost_most(quiz, quiz.model_copy(update={"values": wrong}))
    assert (lost.place, lost.change) == (right, -1.0)


def test_documents_are_paired_by_content_and_not_by_place() -> None:
    before = BASE.score("code")
    order = tuple(reversed(range(len(before.doc_ids))))
    turned = {
        name: tuple(getattr(before, name)[i] for i in order) for name in ("doc_ids", "values")
    }
    turned["weights"] = tuple(before.weights[i] for i in order)
    assert lost_most(before, before.model_copy(update=turned)) == []


def test_the_page_of_a_refusal_names_them_and_says_mcnemars_p() -> None:
    worse = report("merged", bits_task("code", 0.5), accuracy_task("quiz", 150))
    decision = decide(worse, BASE, PromotionRule(gate="calibrated"))
    page = decision_markdown(decision, BASE, [], worse)
    assert "* code: documents " in page
    assert "Examples to look at, at most three of a task: the documents that lost most" in page
    assert "For information only, McNemar's exact p: how often two equally good models" in page
    assert re.search(r"one time of twenty\)\. quiz [0-9.e-]+\.", page)
    better = report("merged", bits_task("code", -0.5), accuracy_task("quiz", 260))
    page = decision_markdown(
        decide(better, BASE, PromotionRule(gate="calibrated")), BASE, [], better
    )
    assert "lost most" not in page


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (5, 1), (3, 9), (20, 21), (0, 900)])
def test_mcnemar_is_the_binomial_test(gained: int, lost: int) -> None:
    expected = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar_p(gained, lost) == pytest.approx(expected)
