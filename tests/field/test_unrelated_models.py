"""Checkpoints of different training runs: refused alike by `plan`, `verify` and `merge`, warned of
in plain stacks, and merged for those who say that they mean it, which the result records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.cli import program
from merge_core.output.manifest import read_manifest
from merge_core.recipes.loading import parse_recipe
from merge_core.verification.tolerance import Tolerance
from tests.support.tiny_llama import base_weights, fine_tuned, write_llama

AVERAGE = "merge_method: linear\nmodels: [{model: ./one}, {model: ./stranger}]\n"
ARITHMETIC = """
merge_method: task_arithmetic
base_model: ./base
models: [{model: ./one, parameters: {weight: 1}}, {model: ./stranger, parameters: {weight: 1}}]
"""
STACK = """
merge_method: passthrough
slices:
  - sources: [{model: ./one, layer_range: [0, 2]}]
  - sources: [{model: ./stranger, layer_range: [0, 2]}]
"""
BLENDED_STACK = """
merge_method: linear
slices:
  - sources: [{model: ./one, layer_range: [0, 1]}, {model: ./stranger, layer_range: [0, 1]}]
  - sources: [{model: ./one, layer_range: [1, 2]}]
"""
THROUGH_A_NAME = """
name: both
merge_method: linear
models: [{model: ./one}, {model: ./stranger}]
---
merge_method: passthrough
models: [{model: both}]
"""
MEANT = "allow_unrelated: true\n"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base, a fine-tune of it, and a model that somebody else trained."""
    base = base_weights()
    models = {"base": base, "one": fine_tuned(base, 1), "stranger": base_weights(seed=99)}
    for name, weights in models.items():
        write_llama(tmp_path / name, weights, config={"num_hidden_layers": 2})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def codes(text: str, *options: str) -> list[int]:
    """Exit codes of plan, verify and merge for one recipe."""
    Path("recipe.yaml").write_text(text)
    out = f"out-{len(list(Path.cwd().glob('out-*')))}"
    commands = (["plan", "recipe.yaml"], ["verify", "recipe.yaml"], ["merge", "recipe.yaml", out])
    return [program.run([*command, *options]) for command in commands]


@pytest.mark.parametrize("recipe", [AVERAGE, ARITHMETIC, BLENDED_STACK, THROUGH_A_NAME])
def test_plan_verify_and_merge_refuse_strangers_alike(
    recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert codes(recipe) == [2, 2, 2]
    assert capsys.readouterr().err.count("allow_unrelated: true") >= 2
    assert not list(Path.cwd().glob("out-*"))


@pytest.mark.parametrize("recipe", [AVERAGE, ARITHMETIC, BLENDED_STACK, THROUGH_A_NAME])
def test_who_means_it_says_so_in_the_recipe_or_beside_it(
    recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert codes(recipe + MEANT) == [0, 0, 0]
    assert codes(recipe, "--allow-unrelated") == [0, 0, 0]
    assert "different training runs" in capsys.readouterr().err
    sums = [Path(out, "SHA256SUMS").read_bytes() for out in ("out-0", "out-1")]
    assert sums[0] == sums[1]


def test_a_plain_stack_of_strangers_is_only_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    assert codes(STACK) == [0, 0, 0]
    assert "come from different training runs" in capsys.readouterr().err


def test_the_manifest_says_that_it_was_allowed_and_others_say_nothing() -> None:
    assert codes(AVERAGE + MEANT) == [0, 0, 0]
    assert codes(AVERAGE.replace("stranger", "base")) == [0, 0, 0]
    assert read_manifest(Path("out-0")).allow_unrelated
    assert json.loads(Path("out-0/mergeflow_manifest.json").read_bytes())["allow_unrelated"]
    assert "allow_unrelated" in Path("out-0/mergeflow_recipe.yaml").read_text()
    assert "allow_unrelated" not in Path("out-1/mergeflow_manifest.json").read_text()


def test_the_recipe_that_allows_it_is_another_recipe() -> None:
    assert parse_recipe(AVERAGE).digest != parse_recipe(AVERAGE + MEANT).digest
    assert parse_recipe(AVERAGE).digest == parse_recipe(AVERAGE + "allow_unrelated: false\n").digest


def test_what_may_be_unrelated_is_what_is_not_mixed() -> None:
    def tolerated(text: str) -> bool:
        return Tolerance.of(parse_recipe(text)).unrelated

    assert tolerated(STACK)
    assert tolerated("base_model: ./base\n" + STACK)
    assert not tolerated(BLENDED_STACK)
    assert not tolerated(
        "merge_method: passthrough\nmodels: [{model: ./one}]\n"
        + ("base_model: ./base\npost: [{lines: {alpha: 1, beta: 0}}]\n")
    )
