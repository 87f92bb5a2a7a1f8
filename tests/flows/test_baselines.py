"""Which checkpoints a merge has to beat, before anything is computed and on real models."""

from __future__ import annotations

from typing import Any

import pytest

from flows.settings.averaging import Averaging
from flows.settings.pipeline import Pipeline
from flows.steps.against import against_of, said_against
from flows.steps.average_baselines import Objective, objective_of
from flows.steps.baselines import Baseline, check_baselines, each_once
from merge_core.errors import RecipeError
from tasks.promotion.rule import PromotionRule
from tasks.records import EvaluationReport, MergeOutcome
from tasks.registry.client import TAG, default_tracking_uri, open_registry
from tests.flows.test_merge import Bench, bench, markdown_of, promoted, shared, steps
from tests.support.decisions import decide
from tests.support.recorded_steps import RecordedSteps
from tests.tasks.promotion.test_baselines import BASE, MERGED
from tests.tasks.promotion.test_rule import accuracy_task, bits_task, report

__all__ = ["bench", "promoted", "shared", "steps"]  # fixtures


def pipeline(experts: bool = True, **promote: Any) -> Pipeline:
    recipe = {"merge_method": "linear", "models": [{"model": "./a"}, {"model": "./b"}]}
    evaluate = {"suite": "s", "experts": experts}
    values = {"name": "p", "recipe": recipe, "evaluate": evaluate, "promote": promote}
    return Pipeline.model_validate(values | {"register": {"model": "mine"}})


def test_the_best_expert_is_known_only_where_experts_are_evaluated() -> None:
    for well in (pipeline(baseline="best_expert"), pipeline(experts=False, baseline="base")):
        check_baselines(well)
    with pytest.raises(RecipeError, match="best_expert is the best of the merged models"):
        check_baselines(pipeline(experts=False, baseline=["base", "best_expert"]))


def test_a_champion_that_is_the_base_counts_as_what_stays() -> None:
    class Source:
        def __init__(self, digest: str) -> None:
            self.digest = digest

    def named(*pairs: tuple[str, str]) -> list[str]:
        baselines = [Baseline(name, Source(digest)) for name, digest in pairs]  # type: ignore[arg-type]
        return [each.name for each in each_once(baselines)]

    assert named(("champion", "a"), ("base", "b")) == ["champion", "base"]
    assert named(("champion", "a"), ("base", "a")) == ["base"]
    assert named(("base", "a"), ("champion", "a")) == ["base"]


def test_the_last_message_says_against_whom() -> None:
    assert said_against(decide(MERGED, BASE, PromotionRule())) == ""
    decision = decide(MERGED, BASE, PromotionRule(), called="champion")
    assert said_against(decision) == "against the champion: "
    message = f"Fell back: {said_against(decision)}{decision.reasons[0]}"
    assert against_of(message) == "the champion", "as `mergeflow status` says it"
    assert against_of("Promoted: code got better: by 0.2 bits per byte") is None


@pytest.mark.slow
def test_a_run_is_judged_against_the_champion_and_the_base_and_its_best_expert(
    bench: Bench, promoted: MergeOutcome, steps: RecordedSteps
) -> None:
    rule = {"baseline": ["champion", "base"], "keep_of_experts": 0}
    state = bench.run(bench.pipeline(promote=rule))
    outcome: MergeOutcome = state.result()
    assert outcome.decision.baselines == ("champion", "base")
    assert "nothing to promote" in outcome.decision.reasons[0], "the merge serves already"
    assert (state.message or "").startswith("Fell back: against the champion and the base: ")
    assert outcome.baseline == "champion"
    assert outcome.serve_digest == promoted.merged.digest
    pages = markdown_of(state)
    assert "Against the champion: " in pages["zoo-plan"]
    assert "](data:image/png;base64," in pages["zoo-decision"]
    assert outcome.registration is not None
    with open_registry(default_tracking_uri(bench.home)) as registry:
        run = registry.client.get_run(outcome.registration.run_id)
        files = {item.path for item in registry.client.list_artifacts(run.info.run_id)}
    assert run.data.tags[TAG + "baseline"] == "champion, base"
    assert "intervals.png" in files
    best: MergeOutcome = bench.run(bench.pipeline(promote={"baseline": "best_expert"})).result()
    assert best.baseline == "best expert"
    assert best.serve.rpartition("/")[2] in ("code-expert", "prose-expert")


def test_soups_are_ranked_by_the_gate_that_decides() -> None:
    """A task that is only guarded makes no soup better, where the calibrated gate decides."""

    def averaging(**promote: Any) -> Averaging:
        values = {"name": "a", "training": {"run": "./r"}, "evaluate": {"suite": "s"}}
        return Averaging.model_validate(values | {"promote": promote})

    def guarded(made: EvaluationReport) -> EvaluationReport:
        quiz = made.scores[1].model_copy(update={"task_weight": 0.0})
        return made.model_copy(update={"scores": (made.scores[0], quiz)})

    reader = guarded(report("reader", bits_task("code", -0.1), accuracy_task("quiz", 190)))
    quizzer = guarded(report("quizzer", bits_task("code", 0.01), accuracy_task("quiz", 300)))
    latest = guarded(BASE)

    def better(objective: Objective) -> EvaluationReport:
        return max((reader, quizzer), key=lambda each: objective(each, latest))

    assert better(objective_of(averaging())) is reader
    assert better(objective_of(averaging(min_gain=0.0))) is quizzer
