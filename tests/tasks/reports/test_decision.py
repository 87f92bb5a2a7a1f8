"""The decision table: what a person sees in Prefect and in the terminal."""

from __future__ import annotations

import re

import pytest

from tasks.promotion.rule import PromotionRule
from tasks.records import Approval
from tasks.reports.decision import (
    column_names,
    comparison_rows,
    decision_markdown,
    question_markdown,
)
from tasks.reports.next_steps import next_steps
from tasks.reports.serving import Serving
from tasks.roles import Roles
from tests.support.decisions import decide
from tests.tasks.promotion.test_rule import accuracy_task, bits_task, report

BASE = report("base", bits_task("code", 0), accuracy_task("quiz", 200))
CODER = report("code-expert", bits_task("code", -0.4), accuracy_task("quiz", 180))
PROSE = report("prose-expert", bits_task("code", 0.3), accuracy_task("quiz", 190))
MERGED = report("merged", bits_task("code", -0.2), accuracy_task("quiz", 240))
DECISION = decide(MERGED, BASE, PromotionRule(gate="former"), [CODER, PROSE])


def test_a_row_has_everyones_score_and_the_share_of_the_best_experts_gain():
    code, quiz = comparison_rows(DECISION, BASE, [CODER, PROSE], MERGED)
    assert code.base == BASE.score("code").score
    assert code.experts == (CODER.score("code").score, PROSE.score("code").score)
    assert code.merged == MERGED.score("code").score
    assert code.best_expert_gain_kept == pytest.approx(0.5, abs=0.01)
    assert quiz.best_expert_gain_kept is None, "no expert is better than the base"


def test_the_markdown_is_two_well_formed_tables_with_the_reasons_above_them():
    text = decision_markdown(DECISION, BASE, [CODER, PROSE], MERGED)
    assert text.startswith("## Promoted")
    assert all(f"* {reason}" in text for reason in DECISION.reasons)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    scores, changes = lines[:4], lines[4:]
    assert len(changes) == 2 + 2
    for table in (scores, changes):
        assert len({line.count("|") for line in table}) == 1
    assert scores[0] == "| task | metric | base | code-expert | prose-expert | merged |"
    assert "↓" in scores[2]
    assert "↑" in scores[3]
    assert changes[0] == "| task | change | interval | outcome | kept of the best expert's gain |"
    assert changes[2].endswith("| 51 % of code-expert's |"), (
        "0.2 of the 0.4 bits that the coder gained, about"
    )
    assert changes[3].endswith("| no expert gained |"), "no expert is better than the base there"


def test_the_question_has_what_matters_in_a_table_that_fits_a_dialog():
    text = question_markdown(DECISION, BASE, [CODER, PROSE], MERGED)
    assert text.startswith("## May the merged checkpoint replace the base?")
    assert all(f"* {reason}" in text for reason in DECISION.reasons)
    head, _, *rows = [line for line in text.splitlines() if line.startswith("|")]
    assert head == "| task | base | merged | change | code-expert | prose-expert |"
    assert len({line.count("|") for line in (head, *rows)}) == 1
    assert f"| **{MERGED.score('code').score:.4g}** |" in rows[0]


SERVES = Serving("models:/zoo/3", "d3", {"code": 2.25, "quiz": 0.5})


def test_the_question_is_about_the_version_that_serves_now_with_its_scores():
    text = question_markdown(DECISION, BASE, [CODER], MERGED, serving=SERVES)
    assert text.startswith("## May the merged checkpoint replace models:/zoo/3, which serves now?")
    head, _, code, quiz = [line for line in text.splitlines() if line.startswith("|")]
    assert head == "| task | base | merged | change | serves now | code-expert |"
    assert "| 2.25 |" in code
    assert "| 0.5 |" in quiz
    base = Serving("models:/zoo/1", BASE.checkpoint_digest)
    of_base = question_markdown(DECISION, BASE, [], MERGED, serving=base)
    assert f"| {BASE.score('code').score:.4g} |\n" in of_base, "this run has evaluated it"


def test_without_its_scores_the_version_that_serves_is_named_all_the_same():
    text = question_markdown(DECISION, BASE, [], MERGED, serving=Serving("models:/zoo/3", "d3"))
    assert "replace models:/zoo/3, which serves now?" in text
    assert "serves now |" not in text
    assert "models:/zoo/3 has no recorded scores on this suite." in text


@pytest.mark.parametrize("baseline", ["latest checkpoint", "best checkpoint", "champion"])
def test_an_average_is_never_said_to_have_a_base(baseline):
    worse = report("merged", bits_task("code", 2), accuracy_task("quiz", 100))
    for candidate in (MERGED, worse):
        decision = decide(candidate, BASE, PromotionRule(gate="former"))
        for page in (decision_markdown, question_markdown):
            text = page(decision, BASE, [], candidate, roles=Roles(baseline, is_average=True))
            assert not re.search(r"\b(base|merged)\b", text), text
            assert f"| {baseline} | average |" in text


def test_without_experts_the_table_has_no_expert_columns():
    text = decision_markdown(DECISION, BASE, [], MERGED)
    assert "expert" not in text


def test_a_fall_back_says_that_the_base_stays():
    worse = report("merged", bits_task("code", 2), accuracy_task("quiz", 100))
    text = decision_markdown(decide(worse, BASE, PromotionRule(gate="former")), BASE, [], worse)
    assert text.startswith("## Fell back: the base stays")
    assert "lost too much" in text


def test_cut_documents_are_mentioned():
    cut = MERGED.model_copy(update={"truncated": 3})
    assert "merged: 3 documents in all: prompts cut" in decision_markdown(DECISION, BASE, [], cut)


def test_what_went_oddly_is_told_of_each_model_and_task():
    task = BASE.scores[0]
    odd = task.model_copy(update={"empty": 2, "cut_off": 0, "truncated": 1, "non_finite": 0})
    base = BASE.model_copy(update={"scores": (odd, *BASE.scores[1:])})
    page = decision_markdown(DECISION, base, [], MERGED)
    said = f"* base: {task.task}: of {len(task.doc_ids)} documents 1 prompts cut to fit the context"
    assert f"{said}, 2 empty answers\n" in page
    assert "* merged:" not in page


def test_names_that_would_break_the_table_are_escaped():
    odd = report("a|b", *CODER.scores)
    table = decision_markdown(DECISION, BASE, [odd], MERGED)
    assert "a\\|b" in table


@pytest.mark.parametrize(
    ("references", "expected"),
    [
        (["/zoo/code-expert", "/zoo/prose-expert"], ["code-expert", "prose-expert"]),
        (["/a/run/final", "/b/run/final"], ["a/run/final", "b/run/final"]),
        (["org/model@main"], ["model@main"]),
        (["/same", "/same"], ["/same", "/same"]),
        (["models/x/"], ["x"]),
    ],
)
def test_experts_get_the_shortest_names_that_differ(references, expected):
    experts = [report("e", *BASE.scores, reference=reference) for reference in references]
    assert column_names(experts) == expected


def test_the_calibrated_gate_shows_what_each_task_may_lose():
    rule = PromotionRule(gate="calibrated", keep_of_experts=0)
    decision = decide(MERGED, BASE, rule, [CODER, PROSE])
    assert decision.promote
    text = decision_markdown(decision, BASE, [CODER, PROSE], MERGED)
    assert all(f"* {reason}" in text for reason in decision.reasons)
    changes = [line for line in text.splitlines() if line.startswith("|")][4:]
    assert changes[0].startswith("| task | change | interval | allowed loss | outcome |")
    assert len({line.count("|") for line in changes}) == 1
    assert "is, but for 5 of 100 evaluations (the calibrated gate on all 800 documents)" in text
    assert "bootstrap" not in text


COLLAPSED = report("merged", bits_task("code", 5), accuracy_task("quiz", 120))
WARNING = "models[0].parameters.weight is 2.5: a scale above 1 often leaves the loss basin"


def test_an_interval_that_does_not_hold_the_change_is_explained():
    """Its legend said that the change surely is in it."""
    decision = decide(COLLAPSED, BASE, PromotionRule())
    text = decision_markdown(decision, BASE, [], COLLAPSED)
    [row] = [line for line in text.splitlines() if line.startswith("| code | -")]
    assert "(cut off) |" in row
    assert "`cut off`: not of the change beside it, but with each document's cut off at" in text
    assert re.search(r"\| at least 0\.\d+ worse \(cut off\) \|", row)
    of_others = decision_markdown(decide(MERGED, BASE, PromotionRule()), BASE, [], MERGED)
    assert "cut off" not in of_others
    values = list(BASE.score("code").values)
    values[0] = 256 * 200.0
    odd = {"values": tuple(values), "score": sum(values) / (200 * len(values))}
    score = BASE.score("code").model_copy(update=odd | {"non_finite": 1, "not_finite_at": (0,)})
    base = report("base", score, accuracy_task("quiz", 200))
    text = decision_markdown(decide(MERGED, base, PromotionRule()), base, [], MERGED)
    assert "(without 1 of them) |" in text
    assert "those documents are left out that the base has no number for" in text


def test_a_refused_merge_has_what_to_try_next_from_the_facts_of_its_run():
    decision = decide(COLLAPSED, BASE, PromotionRule())
    text = decision_markdown(decision, BASE, [], COLLAPSED, warnings=[WARNING] * 5)
    said = text.split("What to try next:")[1].split("| task |")[0]
    assert said.count("a scale above 1") == 3
    assert "; and 2 more" in said
    assert "('diagnose: true' in the pipeline)" in said
    assert "'mergeflow search'" in said
    assert next_steps(decision)[0].startswith("a diagnosis"), "nothing was warned of"
    chosen = decision.model_copy(update={"candidates": 9})
    assert "search" not in " ".join(next_steps(chosen)), "a search has chosen it already"
    declined = Approval(approved=False, at="2026-11-30T12:00:00+00:00", flow_run_id="r")
    for nothing in (
        decide(MERGED, BASE, PromotionRule()),
        decide(BASE, BASE, PromotionRule()),
        decide(report("merged", failure="it was killed"), BASE, PromotionRule()),
        decision.model_copy(update={"approval": declined}),
    ):
        assert next_steps(nothing, [WARNING]) == []
    assert next_steps(decision, is_average=True) == []


def test_what_was_kept_is_said_against_the_baseline_by_its_name():
    decision = decide(COLLAPSED, BASE, PromotionRule(), [CODER], called="champion")
    text = decision_markdown(decision, BASE, [CODER], COLLAPSED, roles=Roles("champion"))
    assert "| none: worse than the champion |" in text
    better = report("merged", bits_task("code", -0.9), accuracy_task("quiz", 200))
    decision = decide(better, BASE, PromotionRule(), [CODER])
    text = decision_markdown(decision, BASE, [CODER], better)
    assert "More than 100 % of a gain: measured better than that expert." in text
    assert "than code-expert gained itself" in text
