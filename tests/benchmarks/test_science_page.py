"""The page says what the numbers say, whatever they are."""

from __future__ import annotations

import json
import math

from benchmarks.science.advice import advice
from benchmarks.science.chapters import Chapter, Finding, Panel, Table
from benchmarks.science.estimates import Estimate
from benchmarks.science.page import Run, numbers, page
from benchmarks.science.sizes import FULL, QUICK

RUN = Run(FULL, (7, 8, 9), quick=False)


def finding(mean: float, error: float = 0.01) -> Finding:
    sure = Estimate(mean, error, 3, 120)
    return Finding("Water is wet.", "A. Author 2020", "wet water is wetter than dry", sure)


def chapter(*findings: Finding, **numbers: Estimate | float) -> Chapter:
    lines = Panel("p", [1, 2], {"a": [findings[0].estimate] * 2}, "x", "y", "dry")
    return Chapter(
        name="water",
        title="Water",
        done="It was poured.",
        findings=findings,
        panels=[lines],
        alt="Water",
        tables=[Table(["a", "b"], [["1", "2"]])],
        numbers=numbers,
    )


def test_a_claim_is_told_with_its_number_and_the_words_that_the_number_chooses() -> None:
    text = page(
        {"water": chapter(finding(0.1), finding(0.001), finding(-0.1))}, RUN, "images/science"
    )
    said = "wet water is wetter than dry by "
    assert f"* Water is wet. (A. Author 2020) **held**: {said}+0.100 ± 0.010" in text
    assert f"**not shown**: {said}+0.001 ± 0.010" in text
    assert f"**the opposite was seen**: {said}-0.100 ± 0.010" in text
    assert "![Water](images/science/water.png)" in text
    assert text.count("| Water is wet | A. Author 2020 |") == 3
    assert "Seeds 7, 8, 9" in text
    assert "over 3 seeds" in text
    assert "So few seeds say of their own spread little." in text
    assert "quick run" not in text


def test_a_quick_run_says_that_it_shows_nothing_and_one_seed_has_no_spread() -> None:
    text = page({"water": chapter(finding(0.1))}, Run(QUICK, (7,), quick=True), "images")
    assert "which shows nothing" in text
    assert "that between seeds is unknown" in text


def test_programs_read_the_same_numbers_and_no_nan() -> None:
    written = json.loads(
        numbers({"water": chapter(finding(0.1), wet=Estimate(0.1, 0.02, 3, 9), dry=math.nan)}, RUN)
    )
    assert written["numbers"] == {
        "wet": {"mean": 0.1, "error": 0.02, "seeds": 3, "documents": 9},
        "dry": None,
    }
    assert written["seeds"] == [7, 8, 9]


def test_advice_turns_with_the_numbers() -> None:
    def said(ties: float, dare: float, both: float) -> str:
        findings = [finding(0.1), finding(ties), finding(dare), finding(both)]
        return next(advice({"many": chapter(*findings)}))

    assert "TIES and DARE kept more here and are worth a trial" in said(0.1, 0.1, 0.0)
    assert "DARE with TIES kept less at equally tuned scales." in said(0.1, 0.0, -0.1)
    assert "TIES kept less here, at equally tuned scales." in said(-0.1, 0.0, 0.0)
    assert "Nothing else was better or worse" in said(0.0, 0.0, 0.0)
