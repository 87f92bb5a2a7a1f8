"""The picture of a decision: which rows, what each has to clear, and that it is drawn."""

from __future__ import annotations

import io

from PIL import Image

from tasks.promotion.baselines import ComparedWith
from tasks.promotion.rule import PromotionRule
from tasks.reports.decision import decision_markdown
from tasks.reports.interval_plot import decision_png
from tasks.reports.intervals import panels
from tests.support.decisions import decide
from tests.tasks.promotion.test_rule import accuracy_task, bits_task, report

BASE = report("base", bits_task("code", 0), accuracy_task("quiz", 200))
CHAMPION = report("champion", bits_task("code", -0.01), accuracy_task("quiz", 205))
EXPERT = report("code-expert", bits_task("code", -0.2), accuracy_task("quiz", 240))
MERGED = report("merged", bits_task("code", -0.1), accuracy_task("quiz", 199))
RULE = PromotionRule(baseline=["champion", "base"], must_hold=["quiz"])
DECISION = decide(
    MERGED,
    CHAMPION,
    RULE,
    [EXPERT],
    called="champion",
    others=[ComparedWith(name="base", report=BASE)],
    origin=BASE,
)


def test_every_interval_is_a_row_with_its_limit_and_its_outcome() -> None:
    mean, tasks, kept = panels(DECISION)
    assert [row.label for row in mean.rows] == [
        "mean, against the champion",
        "mean, against the base",
    ]
    assert [(row.label, row.outcome) for row in tasks.rows] == [
        ("code, against the champion", "held"),
        ("quiz, against the champion", "regressed"),
        ("code, against the base", "held"),
        ("quiz, against the base", "regressed"),
    ]
    assert [row.limit for row in tasks.rows][1] == 0, "a task that must hold, and lost a little"
    assert tasks.rows[1].said == "must hold, and lost"
    assert [row.label for row in kept.rows] == ["code-expert on code", "code-expert on quiz"]
    assert all(row.limit == 80 for row in kept.rows)
    for row in (*mean.rows, *tasks.rows, *kept.rows):
        assert row.low <= row.value <= row.high
        if row.outcome == "held":
            assert row.low > row.limit


def test_the_mean_is_over_the_tasks_that_count() -> None:
    def guarded(made):
        scores = (made.scores[0], made.scores[1].model_copy(update={"task_weight": 0.0}))
        return made.model_copy(update={"scores": scores})

    decision = decide(guarded(MERGED), guarded(BASE), PromotionRule())
    assert panels(decision)[0].title == "Better on average over 1 task?"
    assert decision.gate is not None
    assert [task.share for task in decision.gate.tasks] == [1.0, 0.0]
    assert "on average over" not in decision.reasons[0], "it is the score of one task"
    assert decision.verdict == "promoted", "the other has not lost its margin"


def test_it_is_a_picture_on_the_page_and_there_is_none_where_nothing_was_measured() -> None:
    png = decision_png(DECISION)
    assert png is not None
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.size[0] == 1200
        assert picture.size[1] > 600
    assert len(png) < 120_000
    page = decision_markdown(DECISION, CHAMPION, [EXPERT], MERGED, picture=png)
    assert "](data:image/png;base64,iVBOR" in page
    assert decision_png(decide(MERGED, BASE, PromotionRule(gate="former"))) is None
    died = report("merged", failure="it was killed")
    assert decision_png(decide(died, BASE, PromotionRule())) is None
