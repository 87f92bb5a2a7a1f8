"""A recipe that moves to another directory means the same checkpoints and data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flows.steps.recipe_elsewhere import recipe_elsewhere, written_elsewhere
from merge_core.homes.home import Home
from merge_core.recipes.loading import load_recipe, parse_recipe
from merge_core.recipes.recipe import Recipe
from tests.support.checkpoints import write_checkpoint


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A directory with three checkpoints; one is called as a method is."""
    for index, name in enumerate(("base", "one", "linear")):
        write_checkpoint(tmp_path / "models" / name, {"w": torch.full((2, 2), float(index))})
    (tmp_path / "models" / "texts.jsonl").write_text('{"text": "a"}\n')
    return tmp_path / "models"


@pytest.mark.parametrize(
    ("reference", "written"),
    [
        ("./one", "{m}/one"),
        ("./base+./one", "{m}/base+{m}/one"),
        ("org/model@main", "org/model@main"),
        ("models:/a@champion", "models:/a@champion"),
        ("$MERGEFLOW_HOME/x", "$MERGEFLOW_HOME/x"),
    ],
)
def test_references_of_another_directory(
    models: Path, home: Home, reference: str, written: str
) -> None:
    (home.path / "x").mkdir(parents=True)
    assert written_elsewhere(reference, models, home) == written.format(m=models)


def read_elsewhere(recipe: Recipe, beside: Path, home: Home, directory: Path) -> Recipe:
    place = directory / "elsewhere" / "recipe.yaml"
    place.parent.mkdir()
    place.write_text(recipe_elsewhere(recipe, beside, home).to_yaml())
    return load_recipe(place)


def test_a_recipe_is_read_from_any_directory(models: Path, home: Home, tmp_path: Path) -> None:
    recipe = parse_recipe(
        {
            "merge_method": "task_arithmetic",
            "base_model": "./base",
            "models": [
                {"model": "first", "parameters": {"weight": 0.5}},
                {"model": "linear", "parameters": {"weight": 0.2}},
            ],
            "tokenizer": {"source": "linear"},
            "recipes": [
                {
                    "name": "first",
                    "merge_method": "linear",
                    "models": [
                        {"model": "../models/one", "parameters": {"weight": 1}},
                        {"model": "linear", "parameters": {"weight": 1}},
                    ],
                }
            ],
        }
    )
    moved = read_elsewhere(recipe, models, home, tmp_path)
    assert moved.base_model == str(models / "base")
    assert [each.model for each in moved.models] == ["first", str(models / "linear")]
    [first] = moved.recipes
    assert first.merge_method == "linear"
    assert [each.model for each in first.models] == [str(models / n) for n in ("one", "linear")]
    assert moved.tokenizer is not None
    assert moved.tokenizer.source == str(models / "linear")


def test_the_data_of_a_recipe_is_found_from_any_directory(
    models: Path, home: Home, tmp_path: Path
) -> None:
    measured = {
        "merge_method": "fisher",
        "models": ["one", "linear"],
        "calibration": {"data": "texts.jsonl"},
    }
    moved = read_elsewhere(parse_recipe(measured), models, home, tmp_path)
    assert moved.calibration is not None
    assert moved.calibration.data == str(models / "texts.jsonl")
