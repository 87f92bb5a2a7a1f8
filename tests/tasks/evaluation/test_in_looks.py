"""Real evaluations that are looked at on their way: they stop, and what they saw is what it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tasks.evaluation.evaluate import evaluate_checkpoint
from tasks.evaluation.evaluators import Evaluators
from tasks.evaluation.suite import load_suite
from tasks.promotion.looks import Looks
from tasks.promotion.rule import PromotionRule
from tests.support.decisions import decide
from tests.support.small_suite import TEXTS, choices, write_suite

pytestmark = pytest.mark.slow
RULE = PromotionRule(looks=5, keep_of_experts=0.0)


def test_a_clearly_worse_model_stops_after_a_quarter_and_an_equal_one_sees_what_a_whole_one_sees(
    make_checkpoint, tmp_path: Path
) -> None:
    directory = tmp_path / "suite"
    write_suite(directory)
    texts = [f"{text} {number}" for number in range(4) for text in TEXTS]
    rows = [
        {"prompt": text[:25], "choices": choices(i), "answer": i % 3, "source": f"file {i // 4}"}
        for i, text in enumerate(texts)
    ]
    for name, found in (("texts", [{"text": text} for text in texts]), ("questions", rows)):
        lines = "".join(json.dumps(row) + "\n" for row in found)
        (directory / "data" / f"{name}.jsonl").write_text(lines)
    quiz = directory / "tasks" / "quiz.yaml"
    # Solved examples are drawn in the order of a whole evaluation, also where shares are evaluated.
    quiz.write_text(quiz.read_text() + "fewshot_split: test\nnum_fewshot: 1\n")
    values = yaml.safe_load((directory / "suite.yaml").read_text())
    values["tasks"][1]["cluster"] = "source"
    values["settings"] = {"batch_size": 16, "num_fewshot": None}
    (directory / "suite.yaml").write_text(yaml.safe_dump(values))
    suite = load_suite(directory)

    def louder(model) -> None:
        model.lm_head.weight.mul_(3.0)

    scratch = tmp_path / "scratch"
    how = {"device": "cpu", "scratch": scratch}
    with Evaluators(scratch) as evaluators:
        how["evaluators"] = evaluators
        base = evaluate_checkpoint(make_checkpoint(5), suite, isolation="first", **how)
        looks = Looks(RULE, base)
        worse = evaluate_checkpoint(make_checkpoint(5, louder), suite, looks=looks, **how)
        again = evaluate_checkpoint(make_checkpoint(5), suite, looks=looks, **how)
    assert worse.looks is not None
    assert worse.looks.taken <= 2
    for seen, whole in zip(worse.scores, base.scores, strict=True):
        assert len(seen.doc_ids) <= 0.45 * len(whole.doc_ids)
        asked = dict(zip(whole.doc_ids, whole.prompt_hashes, strict=True))
        prompts = zip(seen.doc_ids, seen.prompt_hashes, strict=True)
        assert all(asked[document] == prompt for document, prompt in prompts)
    decision = decide(worse, base, RULE)
    assert (decision.verdict, decision.promote) == ("fell_back", False)
    assert again.looks is not None, "an equal one is known to be equal in the middle"
    for seen, whole in zip(again.scores, base.scores, strict=True):
        values = dict(zip(whole.doc_ids, whole.values, strict=True))
        found = [values[document] for document in seen.doc_ids]
        assert seen.values == pytest.approx(found, rel=1e-5)
    assert list(scratch.iterdir()) == []
