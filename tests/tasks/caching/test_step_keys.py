"""The key of each cached step stays what it was: by it, homes of users find what was computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import tasks.calibration.measure
import tasks.evaluation.evaluate
import tasks.loading.check
from merge_core.recipes.loading import parse_recipe
from merge_core.recipes.measurements import Measurement
from merge_core.recipes.parts import Calibration
from merge_core.records import CheckpointManifest, SourceCheckpoint
from merge_core.store.objects import Wanted
from tasks.calibrate import calibrate_task
from tasks.decide import decide_task
from tasks.evaluate import evaluate_in_looks_task, evaluate_task
from tasks.find import path_task
from tasks.load import loading_task
from tasks.merge import merge_task
from tasks.profile import profile_task
from tasks.promotion.looks import Looks
from tasks.promotion.rule import PromotionRule
from tasks.resolve import resolve_task
from tasks.sources.hub import HubListing
from tasks.sources.locate import Location
from tasks.verify import verify_task
from tests.security.test_planted_cache import BAR, REPORTS
from tests.support.checkpoints import write_checkpoint
from tests.support.former_records import policy
from tests.support.small_suite import write_suite

OF_COMMIT_3C81C0E = {
    "resolve-v1": "2a9d4b28c9e231a17f6e9b927ef07c5b363207a00f9a33e55de7266c944e7b3b",
    "verify-v1": "9b8e3fcf8ca9a57d6f7b61448a5846591bbc44c433741a430f878704614a060b",
    "profile-v1": "9f7685713ab03ff19c4846fd1637bae4c98a448e329af1f280de54d5bac986db",
    "calibrate-v1": "4dfec4818ea4f88736269cde886c427fa4e5de7dd14fb6b501b58c6c70edb439",
    "merge-v1": "cc52d23be97b415ae398e133d39fc944ff003228cc21fee2e0e45524d3302803",
    "load-v1": "2d528dfd5bb4c7b60c29d6f2ee0ba2d773b65404e121927f09f72e1d87ce752f",
    "evaluate-v1": "a4a609768fdbc64fac11c905d742ae9719e5e967146682755bc19de6a4647f2a",
    "evaluate-in-looks-v1": "de8d48087ebcb1c3d7a9ef9503aede70766074c092a247b07af36cf14e94b177",
    "path-v1": "bbb424eb50ae2aba2ed5e1d562e1a798baa6d7175e76618c7e0bef75df38e74b",
    "decide-v6": "5f270df95ee7afe84936db6393f4ab0a0b6bc671ebfda37336978651cbcb4a6d",
}
"""By the name and version of the step, for the arguments below, of libraries of version 1."""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[Any, tuple[Any, ...]]:
    """Arguments for each step."""
    for module in (tasks.calibration.measure, tasks.evaluation.evaluate, tasks.loading.check):
        monkeypatch.setattr(module, "version", lambda name: "1")
    tensors = {"model.embed_tokens.weight": torch.ones(4, 2, dtype=torch.bfloat16)}
    base, one, two = (
        write_checkpoint(tmp_path / name, tensors).model_copy(update={"digest": str(number) * 64})
        for number, name in enumerate(("base", "one", "two"))
    )
    sources: dict[str, SourceCheckpoint] = {"one": one, "two": two}
    values = {"merge_method": "linear", "models": [{"model": name} for name in sources]}
    recipe = parse_recipe(values | {"parameters": {"weight": 1.0}})
    suite = write_suite(tmp_path / "suite")
    (tmp_path / "texts.jsonl").write_text('{"text": "a"}\n')
    listing = HubListing(repository="org/one", commit="c" * 40, files=())
    merged = CheckpointManifest(
        path="/merged",
        object_id="o",
        digest="d" * 64,
        plan_digest="p",
        recipe_digest="r",
        method="linear",
        dtype="bfloat16",
        parameters=8,
        inputs=(),
        files=(),
        engine="1",
    )
    measurement = Measurement("fisher", Calibration(data="texts.jsonl"))
    looks = Looks(PromotionRule(looks=3), REPORTS[1])
    whole = (base, suite, Path("scratch"), "cpu")
    return {
        resolve_task: (Location(reference="org/one", listing=listing), Path("memo")),
        verify_task: (base, [one, two]),
        profile_task: (base, [one, two]),
        calibrate_task: (one, measurement, Path("home"), tmp_path, "cpu"),
        merge_task: (Wanted.of_recipe(recipe, sources, 1000), recipe, sources, Path("home")),
        loading_task: (merged, recipe, sources, Path("scratch")),
        evaluate_task: whole,
        evaluate_in_looks_task: (*whole, *(None,) * 4, "alone", 1, looks),
        path_task: ([one, two], ["1", "2"]),
        decide_task: (REPORTS[0], BAR),
    }


def test_the_key_of_each_step_is_that_of_the_former_code(calls: dict[Any, tuple[Any, ...]]) -> None:
    found = {}
    for task, arguments in calls.items():
        called = policy(task).of(task.fn, *arguments)
        found[f"{called.step}-v{called.version}"] = called.value
    assert found == OF_COMMIT_3C81C0E
