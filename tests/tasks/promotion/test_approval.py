"""What a person's answer makes of a decision, and how long they are waited for."""

from __future__ import annotations

import pytest

from flows.settings.averaging import Averaging
from flows.settings.form_fields import PromotionForm
from flows.settings.merge_form import MergeForm, pipeline_of
from merge_core.errors import RecipeError
from merge_core.homes.home import Home
from tasks.promotion.approval import with_approval, without_question
from tasks.promotion.rule import PromotionRule
from tasks.records import Approval, Decision
from tasks.registry.runs import approval_tags
from tasks.units import read_duration, spell_duration
from tests.support.decisions import decide, decision_key
from tests.tasks.promotion.test_rule import bits_task, report

BASE, MERGED = report("base", bits_task("code", 0)), report("merged", bits_task("code", -0.2))
DECISION = decide(MERGED, BASE, PromotionRule())
YES = Approval(approved=True, by="Ada", at="2026-11-28T14:20:05+00:00", flow_run_id="r")


def test_an_approval_is_the_first_reason_and_the_rest_stays() -> None:
    decision = with_approval(DECISION, YES.model_copy(update={"comment": "looks good"}), "8h")
    assert decision.promote
    assert decision.verdict == "promoted"
    first, *others = decision.reasons
    assert first == "approved by Ada on 2026-11-28 14:20 UTC: looks good"
    assert tuple(others) == DECISION.reasons
    assert decision.comparisons == DECISION.comparisons


@pytest.mark.parametrize(
    ("changes", "word", "said"),
    [
        ({"by": "Ada"}, "Ada kept the base on 2026-11-28 14:20 UTC", "declined"),
        ({"by": "Ada", "comment": "no"}, "Ada kept the base on 2026-11-28 14:20 UTC: no", None),
        ({"by": None}, "nobody approved within 8 h", "not answered"),
    ],
)
def test_without_approval_the_base_is_kept_with_the_reason(
    changes: dict[str, str | None], word: str, said: str | None
) -> None:
    approval = YES.model_copy(update={"approved": False, **changes})
    decision = with_approval(DECISION, approval, "8h")
    assert (decision.promote, decision.verdict) == (False, "fell_back")
    assert decision.reasons[0] == word
    assert said is None or approval_tags(approval)["approval"] == said


def test_what_serves_already_says_so() -> None:
    decision = without_question(DECISION, "models:/zoo/3")
    assert decision.promote
    assert decision.approval is None
    assert "models:/zoo/3" in decision.reasons[0]


def test_a_decision_that_was_kept_before_there_were_approvals_can_be_read() -> None:
    old = DECISION.model_dump(mode="json")
    del old["approval"]
    assert Decision.model_validate(old) == DECISION


def test_who_is_asked_is_no_part_of_what_the_numbers_say() -> None:
    asked = PromotionRule(approve_within="8h")
    assert decision_key(MERGED, BASE, asked) == decision_key(MERGED, BASE, PromotionRule())
    assert decide(MERGED, BASE, asked) == DECISION


@pytest.mark.parametrize(
    ("text", "seconds", "spelt"),
    [("90s", 90, "90 s"), ("30m", 1800, "30 min"), ("1.5h", 5400, "1.5 h"), ("7d", 604800, "7 d")],
)
def test_durations_are_read_and_spelt(text: str, seconds: float, spelt: str) -> None:
    assert read_duration(text) == seconds
    assert spell_duration(text) == spelt


@pytest.mark.parametrize("text", ["8", "h", "8 hours", "-8h", "1h30m", "1.h"])
def test_what_is_no_duration_is_refused_by_the_rule_too(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration; write for example 30m"):
        read_duration(text)
    with pytest.raises(ValueError, match="approve_within"):
        PromotionRule(approve_within=text)


def test_the_form_asks_for_it_and_the_pipeline_has_it() -> None:
    rows = [{"model": "a", "weight": 1.0}]
    filled = MergeForm.model_validate({"base": "base", "models": rows}).read(Home.discover())
    rule = PromotionForm(approve_within="30m")  # type: ignore[call-arg]
    pipeline = pipeline_of(filled, "n", "suite", rule, "", "cpu")
    assert pipeline.promote.approve_within == "30m"


def test_an_average_hands_it_on_to_the_steps_that_it_shares() -> None:
    values = {
        "name": "n",
        "training": {"run": "/run"},
        "evaluate": {"suite": "starter"},
        "promote": {"approve_within": "8h"},
    }
    averaging = Averaging.model_validate(values)
    recipe = averaging.recipe(averaging.weights(["/run/c1", "/run/c2"]))
    assert averaging.pipeline(recipe).promote.approve_within == "8h"
    with pytest.raises(ValueError, match="approve_within"):
        Averaging.model_validate({**values, "promote": {"approve_within": "soon"}})


def test_errors_of_pipelines_name_the_field() -> None:
    from flows.settings.pipeline import Pipeline
    from merge_core.files.strict_yaml import validated

    values = {
        "name": "n",
        "recipe": {"merge_method": "linear", "models": [{"model": "a"}, {"model": "b"}]},
        "evaluate": {"suite": "starter"},
        "promote": {"approve_within": "tomorrow"},
    }
    with pytest.raises(RecipeError, match=r"promote\.approve_within"):
        validated(Pipeline, values, "p.yaml")
