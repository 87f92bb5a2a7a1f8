"""Pipeline files: what they may say, and how mistakes in them are told."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from flows.settings.pipeline import Pipeline, check_places, load_pipeline
from merge_core.errors import CheckpointError, MergeflowError, RecipeError
from merge_core.recipes.loading import load_recipe
from merge_core.recipes.warnings import warnings_of

RECIPE: dict[str, Any] = {
    "merge_method": "task_arithmetic",
    "base_model": "base",
    "models": [{"model": "expert", "parameters": {"weight": 0.5}}],
}
GOOD: dict[str, Any] = {"name": "mine", "recipe": RECIPE, "evaluate": {"suite": "starter"}}
CONFIGS = Path(__file__).parents[3] / "configs"
SHIPPED = sorted((CONFIGS / "pipelines").glob("*.yaml"))


def write(directory: Path, values: dict[str, Any], name: str = "pipeline.yaml") -> Path:
    path = directory / name
    path.write_text(yaml.safe_dump(values))
    return path


def changed(path: str, value: Any) -> dict[str, Any]:
    """GOOD with one value set, `a.b.c` being nested keys."""
    values = json.loads(json.dumps(GOOD))
    *parents, last = path.split(".")
    place = values
    for key in parents:
        place = place.setdefault(key, {})
    place[last] = value
    return values


@pytest.mark.parametrize(
    ("path", "value", "messages"),
    [
        ("promote.max_regresion", 1, ["promote.max_regresion", "did you mean 'max_regression'?"]),
        ("regster", {}, ["regster", "did you mean 'register'?"]),
        ("evaluate.sute", "x", ["evaluate.sute", "did you mean 'suite'?"]),
        ("evaluate.suite", 3, ["evaluate.suite"]),
        ("execution.device", "gpu", ["execution.device", "use auto, cpu, cuda or cuda:N"]),
        ("execution.threads", 0, ["execution.threads"]),
        ("execution.shard_size", "5 parsecs", ["execution.shard_size", "write for example 5GB"]),
        ("execution.scale_out.proceses", 2, ["scale_out.proceses", "did you mean 'processes'?"]),
        ("execution.scale_out.processes", 0, ["execution.scale_out.processes"]),
        ("execution.scale_out.dask", "10.0.0.5:8786", ["execution.scale_out.dask"]),
        (
            "execution.scale_out",
            {"processes": 2, "dask": "local"},
            ["execution.scale_out", "processes and dask exclude each other"],
        ),
        ("register.model", "two words", ["register.model"]),
        ("register", {"sign": "release"}, ["register", "sign", "set model too"]),
        ("register", {"serve": True}, ["register", "serve", "set model too"]),
        ("promote.confidence", 2, ["promote.confidence"]),
        ("name", "no/slash", ["name"]),
        ("recipe.merge_method", "tis", ["recipe", "merge_method", "did you mean 'ties'?"]),
        ("recipe.modelz", [], ["recipe", "modelz", "did you mean 'models'?"]),
        ("recipe", "gone.yaml", ["recipe", "gone.yaml"]),
        ("recipe", 7, ["recipe", "must be a recipe"]),
    ],
)
def test_a_mistake_names_its_place_and_what_was_meant(
    tmp_path: Path, path: str, value: Any, messages: list[str]
) -> None:
    file = write(tmp_path, changed(path, value))
    with pytest.raises(RecipeError) as caught:
        load_pipeline(file)
    for message in [str(file), *messages]:
        assert message in str(caught.value)


def test_every_mistake_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    values = changed("promote.min_gian", 1) | {"regster": {}}
    with pytest.raises(RecipeError) as caught:
        load_pipeline(write(tmp_path, values))
    assert "min_gian" in str(caught.value)
    assert "regster" in str(caught.value)


def test_a_recipe_may_be_a_file_of_its_own_and_its_paths_start_there(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    write(tmp_path / "recipes", RECIPE, "mine.yaml")
    apart = load_pipeline(write(tmp_path, GOOD | {"recipe": "recipes/mine.yaml"}))
    inline = load_pipeline(write(tmp_path, GOOD, "inline.yaml"))
    assert apart.pipeline.recipe == inline.pipeline.recipe
    assert apart.beside == tmp_path / "recipes"
    assert inline.beside == tmp_path


def test_a_suite_beside_the_file_is_found_from_anywhere(tmp_path: Path) -> None:
    (tmp_path / "suite").mkdir()
    loaded = load_pipeline(write(tmp_path, changed("evaluate.suite", "suite")))
    assert loaded.pipeline.evaluate.suite == str(tmp_path / "suite")


def test_a_checkpoint_that_is_nowhere_is_told_before_anything_starts(tmp_path: Path) -> None:
    loaded = load_pipeline(write(tmp_path, changed("recipe.base_model", "./gone")))
    with pytest.raises(CheckpointError, match="no such directory"):
        check_places(loaded)


def test_a_suite_that_does_not_exist_is_told_before_anything_starts(tmp_path: Path) -> None:
    loaded = load_pipeline(write(tmp_path, changed("evaluate.suite", "startr")))
    with pytest.raises(MergeflowError, match="startr"):
        check_places(loaded)


def test_a_form_is_checked_like_a_file() -> None:
    recipe = RECIPE | {"merge_method": "tis"}
    with pytest.raises(ValidationError, match="did you mean 'ties'"):
        Pipeline.model_validate(GOOD | {"recipe": recipe})


def test_a_pipeline_survives_the_way_through_a_server() -> None:
    pipeline = Pipeline.model_validate(GOOD)
    again = Pipeline.model_validate(json.loads(pipeline.model_dump_json(by_alias=True)))
    assert again == pipeline
    assert again.run_name == pipeline.run_name


def test_the_run_name_follows_the_recipe() -> None:
    stronger = RECIPE | {"models": [{"model": "expert", "parameters": {"weight": 0.6}}]}
    names = {
        Pipeline.model_validate(GOOD | {"recipe": recipe}).run_name for recipe in (RECIPE, stronger)
    }
    assert len(names) == 2
    assert all(name.startswith("mine-") for name in names)


def test_every_field_of_the_form_has_a_title_and_a_place() -> None:
    schema = Pipeline.model_json_schema(by_alias=True)
    sections = [
        schema,
        *(schema["$defs"][name] for name in ("Evaluate", "Register", "Execution", "ScaleOut")),
    ]
    for section in sections:
        for name, field in section["properties"].items():
            assert "title" in field or "$ref" in field, name
            assert "position" in field, name
        assert section["additionalProperties"] is False


def test_the_forms_schema_has_no_circle() -> None:
    """A recipe holds recipes, but Prefect refuses a schema that refers to itself."""
    definitions = Pipeline.model_json_schema(by_alias=True)["$defs"]

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above
        for inner in re.findall(r"#/\$defs/(\w+)", json.dumps(definitions[name])):
            visit(inner, (*above, name))

    visit("Recipe", ())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_pipelines_are_sound(path: Path) -> None:
    assert load_pipeline(path).pipeline.name == path.stem


@pytest.mark.parametrize(
    "path", sorted((CONFIGS / "recipes").glob("*.yaml")), ids=lambda path: path.stem
)
def test_shipped_recipes_are_sound(path: Path) -> None:
    assert warnings_of(load_recipe(path)) == []
