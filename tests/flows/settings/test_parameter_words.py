"""Parameters that no form's schema has held up are told in our words, with the field's name."""

from __future__ import annotations

from typing import Any

import pytest
from prefect.client.schemas.objects import State
from prefect.flow_engine import run_flow

from flows import merge_from_form
from flows.average import average_checkpoints
from flows.merge import merge_pipeline
from flows.stack.prefect_session import PrefectSession

PAIR = [{"model": "./a", "weight": 0.5}, {"model": "./b", "weight": 0.5}]
TIES = {"name": "n", "base": "./base", "models": PAIR, "density": 0.3}
PIPELINE = {
    "name": "n",
    "recipe": {"merge_method": "linear", "models": [{"model": "./a"}, {"model": "./b"}]},
    "evaluate": {"suite": "starter"},
}
AVERAGING = {"name": "n", "run": "./run", "evaluate": {"suite": "starter"}}


@pytest.mark.parametrize(
    ("flow", "parameters", "told"),
    [
        (merge_from_form.ties, TIES | {"density": 1.5}, "density"),
        (merge_from_form.ties, TIES | {"density": "much"}, "density"),
        (merge_from_form.ties, {k: v for k, v in TIES.items() if k != "density"}, "density"),
        (merge_from_form.ties, TIES | {"models": [{"model": "./a", "weight": "x"}]}, "models[0]"),
        (merge_from_form.ties, TIES | {"densiti": 0.3}, "densiti"),
        (merge_from_form.ties, {"name": "n"}, "base"),
        (merge_pipeline, {"pipeline": PIPELINE | {"promote": {"min_gain": "x"}}}, "min_gain"),
        (merge_pipeline, {"pipeline": PIPELINE | {"recipi": {}}}, "recipi"),
        (merge_pipeline, {"beside": "/"}, "pipeline"),
        (average_checkpoints, {"averaging": AVERAGING | {"evaluate": {}}}, "suite"),
    ],
)
@pytest.mark.slow
def test_a_wrong_parameter_is_named_in_our_words(
    prefect: PrefectSession, flow: Any, parameters: dict[str, Any], told: str
) -> None:
    state: State[Any] = run_flow(flow, parameters=parameters, return_type="state")  # type: ignore[assignment]
    assert state.is_failed()
    said = str(state.message)
    assert told in said
    for words in ("pydantic", "validation error", "Input should", "type=", "errors.pydantic.dev"):
        assert words not in said, said
    assert "expects parameters" not in said, said
