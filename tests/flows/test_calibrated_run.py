"""A pipeline whose rule chooses the calibrated gate, on real models that the former one judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.records import MergeOutcome
from tasks.registry.client import default_tracking_uri, open_registry
from tests.flows.test_merge import ALL_CACHED, Bench, bench, markdown_of, promoted, shared, steps
from tests.support.recorded_steps import RecordedSteps

__all__ = ["bench", "promoted", "shared", "steps"]  # fixtures


@pytest.mark.slow
def test_a_run_decides_by_the_gate_that_its_rule_names_on_what_is_cached(
    bench: Bench,
    promoted: MergeOutcome,
    steps: RecordedSteps,
) -> None:
    assert promoted.decision.gate is None
    rule = {"gate": "calibrated", "keep_of_experts": 0.1, "guard_margin": 0.5}
    path = bench.pipeline(promote=rule)
    state = bench.run(path)
    outcome: MergeOutcome = state.result()
    assert steps.ran == ALL_CACHED | {"decide zoo"}, "nothing is evaluated for another gate"
    decision = outcome.decision
    assert decision.gate is not None
    assert decision.gate.visible is not None, "planned from the experts"
    page = markdown_of(state)["zoo-decision"]
    assert decision.reasons[0] in page
    assert "| allowed loss |" in page
    registration = outcome.registration
    assert registration is not None
    with open_registry(default_tracking_uri(bench.home)) as registry:
        run = registry.client.get_run(registration.run_id)
        where = registry.client.download_artifacts(registration.run_id, "decision.json")
    assert run.data.params["promote.exceed"] == "0.0"
    assert "promote.min_gain" not in run.data.params
    assert json.loads(Path(where).read_text())["gate"] == decision.gate.model_dump(mode="json")
    bench.outcome(path)
    assert steps.ran == ALL_CACHED | {"decide zoo"}, "and the second time it is found"


@pytest.mark.slow
def test_a_candidate_is_looked_at_once_and_found_the_second_time(
    bench: Bench, promoted: MergeOutcome, steps: RecordedSteps
) -> None:
    """Of another weight than `promoted`: what is stored whole is never looked at again."""
    rule = {"gate": "calibrated", "looks": 2, "keep_of_experts": 0.1, "guard_margin": 0.5}
    path = bench.pipeline(weight=0.3, promote=rule)
    first = bench.outcome(path)
    assert "evaluate-in-looks merged" in steps.ran
    assert not {name for name in steps.ran if name.startswith("evaluate ")}
    second = bench.outcome(path)
    assert "evaluate-in-looks merged" in steps.cached
    assert second.decision == first.decision
