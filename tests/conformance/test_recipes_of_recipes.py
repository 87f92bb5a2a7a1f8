"""A recipe that uses other recipes by name gives the bytes of merges done one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from safetensors.torch import load_file

from merge_core.errors import RecipeError
from merge_core.recipes.loading import parse_recipe
from merge_core.records import SourceCheckpoint
from tests.conformance.nasty import Zoo
from tests.support.checkpoints import run_recipe
from tests.support.slow_cases import first_few
from tests.support.tiny_llama import described

pytestmark = pytest.mark.parametrize("zoo", ["bfloat16"], indirect=True)

FIRST = {
    "linear": """
merge_method: linear
models:
  - {model: a, parameters: {weight: 0.7}}
  - {model: b, parameters: {weight: 0.3}}
""",
    "ties": """
merge_method: ties
base_model: base
models: [{model: a}, {model: c}]
parameters: {weight: 0.8, density: 0.4}
""",
    "ties over the whole model": """
merge_method: ties
base_model: base
models: [{model: a}, {model: c}]
parameters: {weight: 0.8, density: 0.4, scope: global}
""",
    "nuslerp by rows": """
merge_method: nuslerp
models:
  - {model: a, parameters: {weight: 0.5}}
  - {model: b, parameters: {weight: 0.5}}
parameters: {nuslerp_flatten: false}
""",
    "della": """
merge_method: della
base_model: base
models: [{model: a}, {model: c}]
parameters: {weight: 0.8, density: 0.5, epsilon: 0.1}
""",
    "iso_c": """
merge_method: iso_c
base_model: base
models: [{model: a}, {model: c}]
""",
    "filters and gradients": """
merge_method: task_arithmetic
base_model: base
models: [{model: a}, {model: b}]
parameters:
  weight:
    - {filter: ties, value: 0.9}
    - {value: [0.1, 0.9]}
""",
}
SECOND = {
    "linear": """
merge_method: linear
models:
  - {model: first, parameters: {weight: 0.5}}
  - {model: b, parameters: {weight: 0.5}}
""",
    "ties": """
merge_method: ties
base_model: base
models: [{model: first}, {model: b}]
parameters: {weight: 0.6, density: 0.3}
""",
    "ties over the whole model": """
merge_method: ties
base_model: base
models: [{model: first}, {model: b}]
parameters: {weight: 0.6, density: 0.3, scope: global}
""",
    "slerp": """
merge_method: slerp
base_model: first
models: [{model: c}]
parameters: {t: 0.4}
""",
    "tsv_m": """
merge_method: tsv_m
base_model: base
models: [{model: first}, {model: b}]
""",
    "a base of its own": """
merge_method: task_arithmetic
base_model: first
models: [{model: b}, {model: c}]
parameters: {weight: 0.4}
""",
}


def in_two_merges(
    first: str, second: str, zoo: Mapping[str, SourceCheckpoint], tmp_path: Path
) -> str:
    """Digest of the result when the first merge is written and read again."""
    run_recipe(parse_recipe(first), zoo, tmp_path / "first")
    again = described(tmp_path / "first")
    done = run_recipe(parse_recipe(second), {**zoo, "first": again}, tmp_path / "second")
    return _weights(done.path)


def in_one(first: str, second: str, zoo: Zoo, out: Path, **options: object) -> str:
    text = f"name: first\n{first.lstrip()}---\n{second.lstrip()}"
    return _weights(run_recipe(parse_recipe(text), zoo, out, **options).path)


def _weights(directory: str) -> str:
    return next(f.sha256 for f in described(Path(directory)).files if f.name.endswith("tensors"))


@pytest.mark.parametrize("second", sorted(SECOND))
@pytest.mark.parametrize("first", first_few(sorted(FIRST), 4))
def test_one_file_of_recipes_equals_its_merges_one_by_one(
    zoo: Zoo, tmp_path: Path, first: str, second: str
) -> None:
    expected = in_two_merges(FIRST[first], SECOND[second], zoo, tmp_path)
    assert in_one(FIRST[first], SECOND[second], zoo, tmp_path / "one") == expected


@pytest.mark.parametrize("first", ["ties over the whole model", "della", "nuslerp by rows"])
def test_recipes_of_recipes_give_the_same_bytes_for_any_block_and_thread(
    zoo: Zoo, tmp_path: Path, first: str
) -> None:
    second = SECOND["ties over the whole model"]
    usual = in_one(FIRST[first], second, zoo, tmp_path / "usual")
    assert in_one(FIRST[first], second, zoo, tmp_path / "small", block_elements=1) == usual
    assert in_one(FIRST[first], second, zoo, tmp_path / "alone", threads=1) == usual


@pytest.mark.parametrize("name", ["result", "the", "last"])
def test_no_name_of_a_recipe_mixes_up_what_two_recipes_see_of_the_whole_model(
    zoo: Zoo, tmp_path: Path, name: str
) -> None:
    first, second = FIRST["ties over the whole model"], SECOND["ties over the whole model"]
    usual = in_one(first, second, zoo, tmp_path / "usual")
    text = f"name: {name}\n{first.lstrip()}---\n{second.lstrip()}"
    renamed = parse_recipe(text.replace("model: first", f"model: {name}"))
    assert _weights(run_recipe(renamed, zoo, tmp_path / "renamed").path) == usual


def test_an_intermediate_is_rounded_to_its_own_dtype(zoo: Zoo, tmp_path: Path) -> None:
    first = FIRST["linear"] + "out_dtype: bfloat16\n"
    expected = in_two_merges(first, SECOND["linear"], zoo, tmp_path)
    assert in_one(first, SECOND["linear"], zoo, tmp_path / "one") == expected


def test_nothing_but_the_result_is_written(zoo: Zoo, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    in_one(FIRST["ties"], SECOND["linear"], zoo, tmp_path / "here" / "one")
    weights = [path.parent.name for path in tmp_path.rglob("*.safetensors")]
    assert weights == ["one"]


def test_a_recipe_may_be_used_twice_and_through_another(zoo: Zoo, tmp_path: Path) -> None:
    text = """
name: one
merge_method: linear
models: [{model: a}, {model: b}]
---
name: two
merge_method: linear
models: [{model: one}, {model: c}]
---
merge_method: linear
models:
  - {model: one, parameters: {weight: 0.5}}
  - {model: two, parameters: {weight: 0.5}}
out_dtype: float32
"""
    flat = """
merge_method: linear
models:
  - {model: a, parameters: {weight: 0.375}}
  - {model: b, parameters: {weight: 0.375}}
  - {model: c, parameters: {weight: 0.25}}
out_dtype: float32
"""
    nested = Path(run_recipe(parse_recipe(text), zoo, tmp_path / "nested").path)
    whole = Path(run_recipe(parse_recipe(flat), zoo, tmp_path / "flat").path)
    expected = load_file(whole / "model.safetensors")
    for name, tensor in load_file(nested / "model.safetensors").items():
        if tensor.numel():
            worst = (tensor - expected[name]).abs().max()
            assert worst <= 0.02 * max(1.0, expected[name].abs().max()), name


def test_recipes_that_multiply_their_readings_without_end_are_refused_while_planning(
    zoo: Zoo, tmp_path: Path
) -> None:
    first = "name: r0\nmerge_method: linear\nmodels: [{model: a}, {model: b}]\n"
    second = "name: r1\nmerge_method: linear\nmodels: [{model: b}, {model: c}]\n"
    later = [
        f"name: r{n}\nmerge_method: linear\nmodels: [{{model: r{n - 1}}}, {{model: r{n - 2}}}]\n"
        for n in range(2, 30)
    ]
    with pytest.raises(RecipeError, match="checkpoints for each tensor"):
        run_recipe(parse_recipe("---\n".join([first, second, *later])), zoo, tmp_path / "out")
