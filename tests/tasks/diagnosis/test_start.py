"""The search that a diagnosis begins is one that `mergeflow search` takes, for any recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.settings.pipeline import LoadedPipeline, check_places
from flows.settings.search import SearchPipeline, load_search
from merge_core.recipes.loading import parse_recipe
from tasks.diagnosis.diagnosis import Diagnosis
from tasks.diagnosis.start import name_of, starting_search
from tests.support.diagnosed import checkpoints, curves_with, diagnosis, scale_curve, weights_of


def taken(directory: Path, found: Diagnosis, recipe: dict[str, object]) -> SearchPipeline:
    """The search as the command loads it: file, space, suite and checkpoints are checked."""
    names = [*([found.base] if found.base else []), *found.models]
    written = {name: str(directory / name) for name in names}
    path = directory / "search.yaml"
    path.write_text(starting_search(found, parse_recipe(recipe), written, None))
    search, beside = load_search(path)
    check_places(LoadedPipeline(search, beside))
    return search


def recipe_of(base: str | None, *models: str, **more: object) -> dict[str, object]:
    listed = [{"model": name, "parameters": {"weight": 1.0}} for name in models]
    method = "task_arithmetic" if base else "linear"
    return {
        "merge_method": method,
        **({"base_model": base} if base else {}),
        "models": listed,
        **more,
    }


def test_conflicts_bring_ties_in_and_lengths_and_basins_end_the_weights(tmp_path: Path) -> None:
    names = ["a", "b"]
    weights = weights_of(tmp_path, {"a": 0.01, "b": 0.03})
    curves = curves_with(scale_curve(0, {0.0: 0.0, 0.5: 0.1, 1.5: -0.2}, (1.5,)))
    found = diagnosis("base", names, weights, curves)
    search = taken(tmp_path, found, recipe_of("base", *names, dtype="bfloat16"))
    assert [method.name for method in search.search.methods] == ["task_arithmetic", "ties"]
    tops = [knob.high for knob in search.search.space.values()]
    assert tops[0] == 1.5, "where its basin ends"
    assert tops[1] == pytest.approx(1.2 / 3, rel=0.05), "a third as much of what is thrice as long"
    assert search.recipe.dtype == "bfloat16"
    assert [entry.parameters["weight"] for entry in search.recipe.models] == [0.5, 0.5]


def test_one_model_with_a_base_and_models_without_one(tmp_path: Path) -> None:
    weights = weights_of(tmp_path, {"a": 0.01, "b": 0.01})
    checkpoints(tmp_path / "alone", {"a": 0.01})
    alone = diagnosis("base", ["a"], weights_of(tmp_path / "one", {"a": 0.01}))
    search = taken(tmp_path / "one", alone, recipe_of("base", "a"))
    assert list(search.search.space) == ["models[0].weight"]
    assert search.search.methods == ()
    assert weights.profile.pairs
    without = diagnosis(None, ["a", "b"], None)
    search = taken(tmp_path, without, recipe_of(None, "a", "b"))
    assert search.recipe.merge_method == "linear"


def test_names_that_yaml_would_read_otherwise_are_kept(tmp_path: Path) -> None:
    names = ["a: b #x", "- 'q\"{%"]
    weights = weights_of(tmp_path, dict.fromkeys(names, 0.01))
    found = diagnosis("base", names, weights, name="../evil\nname: [x")
    search = taken(tmp_path, found, recipe_of("base", *names))
    assert [Path(entry.model).name for entry in search.recipe.models] == names
    assert search.name == "evil-name-x-diagnosed"


def test_tokens_that_come_from_a_model_come_from_where_it_is(tmp_path: Path) -> None:
    found = diagnosis("base", ["a"], weights_of(tmp_path, {"a": 0.01}))
    search = taken(tmp_path, found, recipe_of("base", "a", tokenizer_source="a"))
    assert search.recipe.tokenizer_source == str(tmp_path / "a")


@pytest.mark.parametrize(
    ("text", "name"), [("", "recipe-diagnosed"), ("é" * 99, "recipe-diagnosed")]
)
def test_a_name_is_always_one(text: str, name: str) -> None:
    assert name_of(text) == name
