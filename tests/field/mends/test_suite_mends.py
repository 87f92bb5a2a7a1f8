"""Mends of what a suite needs, of its halves, and of evaluations that may stop early."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.steps.early_checks import check_rule
from merge_core.errors import StepError
from tasks.evaluation.halves import keep_half
from tasks.evaluation.needs import check_needs
from tasks.evaluation.suite import load_suite
from tasks.processes.model import Problem
from tasks.promotion.looks import Looks
from tasks.promotion.rule import PromotionRule
from tasks.records import EvaluationReport
from tests.field.mends.situations import Situation, situations
from tests.support.decisions import decide
from tests.support.followed_mends import Advice, Shell, Step
from tests.tasks.evaluation.test_halves import Task
from tests.tasks.evaluation.test_needs import changed
from tests.tasks.promotion.test_looks import BASE, RULE, part
from tests.tasks.promotion.test_rule import accuracy_task, bits_task, report

pytestmark = pytest.mark.slow  # `make field`


def needs(here: Path, settings: dict[str, Any], **task: Any) -> str:
    """Look for what a suite needs, with a model whose context has 64 tokens."""
    (here / "model").mkdir(exist_ok=True)
    (here / "model/config.json").write_text(json.dumps({"max_position_embeddings": 64}))
    check_needs(changed(here, settings, **task), here / "model")
    return "all is there"


def a_template_that_a_base_has_not(here: Path) -> Iterator[Step]:
    yield (needs, here, {"apply_chat_template": True})
    yield (needs, here, {})


def a_context_that_is_too_long(here: Path) -> Iterator[Step]:
    yield (needs, here, {"max_length": 65})
    yield (needs, here, {"max_length": 64})


def answers_that_leave_no_room(here: Path) -> Iterator[Step]:
    yield (needs, here, {"generation": {"max_gen_toks": 64}})
    yield (needs, here, {"generation": {"max_gen_toks": 32}})


def data_that_is_nowhere(here: Path) -> Iterator[Step]:
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_DATASETS_CACHE"] = str(here / "prepared")
    beside = yaml.safe_load((changed(here, {}).include_directory / "quiz.yaml").read_text())
    yield (partial(needs, here, {}, dataset_path="someone/quiz", dataset_kwargs={}),)
    yield (partial(needs, here, {}, **beside),)


def halved(documents: int) -> str:
    """Leave a task one half of its documents."""
    task = Task([{"text": str(number)} for number in range(documents)])
    try:
        keep_half(task, "quiz", None, 0.5, "search", "tasks[0]")
    except Problem as problem:
        raise StepError(problem.message["what"], mend=problem.message["mend"]) from None
    return f"{len(task.eval_docs)} documents"


def a_task_of_one_document(here: Path) -> Iterator[Step]:
    yield (halved, 1)
    yield (halved, 2)


def a_half_of_a_suite_that_has_none(here: Path) -> Iterator[Step]:
    file = Path(changed(here, {}).directory) / "suite.yaml"
    yield (load_suite, f"{file.parent}#search")
    file.write_text(file.read_text() + "split: {search: 0.5}\n")
    yield (load_suite, f"{file.parent}#search")


def looks_at_answers_that_are_repeated(here: Path) -> Iterator[Step]:
    suite = changed(here, {"repeats": 2, "generation": {"temperature": 0.7}})
    yield (check_rule, PromotionRule(looks=3), suite)
    yield (check_rule, PromotionRule(), suite)


def decided(candidate: EvaluationReport, base: EvaluationReport, rule: PromotionRule) -> str:
    """The verdict on a candidate."""
    return decide(candidate, base, rule).verdict


WORSE = report("worse", bits_task("code", 0.4), accuracy_task("quiz", 150))


def a_decision_by_another_rule(here: Path) -> Iterator[Step]:
    stopped = part(WORSE, Looks(RULE, BASE), 1)
    yield (decided, stopped, BASE, PromotionRule(keep_of_experts=0.0))
    yield (decided, stopped, BASE, RULE)


def a_baseline_that_was_not_evaluated_whole(here: Path) -> Iterator[Step]:
    stopped = part(BASE, Looks(RULE, BASE), 1)
    yield (decided, WORSE, stopped, PromotionRule(keep_of_experts=0.0))
    yield (decided, WORSE, BASE, PromotionRule(keep_of_experts=0.0))


@pytest.mark.parametrize("situation", situations(globals()), ids=lambda each: each.__name__)
def test_suite(
    situation: Situation,
    here: Path,
    mergeflow: Shell,
    advice: Advice,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_CACHE"):  # what a situation sets is taken back
        monkeypatch.setenv(name, "")
        os.environ.pop(name)
    advice.follow(mergeflow, situation(here))
