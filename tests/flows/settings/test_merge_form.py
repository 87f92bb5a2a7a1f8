"""The form of the merge deployment: what Prefect's server refuses by its schema, before a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jsonschema.exceptions import best_match
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import ValidationError, is_valid_schema, validate

from flows.merge_from_form import merge_from_form
from flows.settings.form_fields import PromotionForm
from flows.settings.merge_form import METHOD_NAMES, MergeForm, pipeline_of
from merge_core.errors import RecipeError
from merge_core.homes.home import Home
from merge_core.methods import METHODS
from tasks.promotion.rule import PromotionRule

SCHEMA = parameter_schema(merge_from_form).model_dump_for_openapi()
ROWS = [{"model": "a", "weight": 0.5}, {"model": "b", "weight": 0.5}]
PAIR = {"base": "base", "models": ROWS}
BARE = [{"model": "a"}, {"model": "b"}]


def check(merge: dict[str, Any], **others: Any) -> None:
    """What the server does with a form, by its own code."""
    filled = {"name": "n", "merge": merge, **others}
    # With raise_on_error it also checks the schema itself each time, which takes a second.
    error = best_match(validate(filled, SCHEMA))
    if error is not None:
        place = error.json_path.removeprefix("$.")
        raise ValidationError(f"field '{place}': {error.message}")


@pytest.mark.parametrize(
    "merge",
    [
        {**PAIR},
        {"method": "task_arithmetic", **PAIR, "lambda": 0.8},
        {"method": "ties", **PAIR, "density": 0.2, "lambda": 1},
        {"method": "linear", "models": ROWS},
        {"method": "linear", "models": BARE},
        {"method": "slerp", "base": "base", "models": BARE[:1], "t": 0.5},
        {"method": "model_stock", "base": "base", "models": BARE},
        {"method": "sce", "base": "base", "models": BARE, "select_topk": 0.1},
        {"recipe": "recipe.yaml"},
        {"recipe": "recipe.yaml", "method": "ties", "base": "", "models": []},
        {"method": "ties", **PAIR, "density": None},
    ],
    ids=str,
)
def test_forms_that_make_sense_are_taken(merge: dict[str, Any]) -> None:
    check(merge)


@pytest.mark.parametrize(
    ("merge", "place", "said"),
    [
        ({"method": "linear"}, "merge", "'models' is a required property"),
        ({"models": ROWS}, "merge", "'base' is a required property"),
        ({"models": ROWS, "base": ""}, "merge.base", "a directory such as ./runs/code"),
        ({**PAIR, "method": "tise"}, "merge.method", "'tise' is not one of"),
        ({**PAIR, "density": 1.5, "method": "ties"}, "merge.density", "a share between 0 and 1"),
        ({**PAIR, "t": 0.5}, "merge.t", "nothing here: only slerp, nearswap take it"),
        ({**PAIR, "gamma": 0.1, "method": "ties"}, "merge.gamma", "only breadcrumbs"),
        ({"base": "base", "models": BARE}, "merge.models[1]", "'weight' is a required"),
        ({**PAIR, "method": "slerp", "t": 0.5}, "merge.models", "not more than one model"),
        ({"method": "slerp", "base": "b", "models": BARE[:1]}, "merge", "'t' is a required"),
        (
            {"method": "model_stock", "base": "b", "models": BARE[:1]},
            "merge.models",
            "at least 2",
        ),
        ({"method": "model_stock", **PAIR}, "merge.models[1].weight", "nothing here: only"),
        ({**PAIR, "lamda": 1}, "merge", "'lamda' was unexpected"),
        ({"recipe": "r.yaml", **PAIR}, "merge", "there is a recipe"),
    ],
    ids=str,
)
def test_forms_that_make_no_sense_are_refused_with_the_field(
    merge: dict[str, Any], place: str, said: str
) -> None:
    with pytest.raises(ValidationError, match=said) as refused:
        check(merge)
    assert f"field '{place}" in str(refused.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "two words"),
        ("device", "gpu"),
        ("registered_model", "a/b"),
        ("suite", ""),
        ("promote", {"min_gain": -2}),
        ("promote", {"on_inconclusive": "maybe"}),
    ],
)
def test_the_other_fields_have_bounds_too(field: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=field):
        check(PAIR, **{field: value})


def without(values: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != key}


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_the_schema_and_the_recipe_agree_on_every_method(name: str) -> None:
    method = METHODS[name]
    required = {p.name for p in method.parameters if p.default is None}
    merge: dict[str, Any] = {"method": name, "base": "base"}
    rows = [{"model": each} for each in "abcd"[: max(method.fewest_models, 1)]]
    merge["models"] = [row | ({"weight": 0.5} if "weight" in required else {}) for row in rows]
    merge |= dict.fromkeys(required - {"weight"}, 0.5)
    check(merge)
    assert MergeForm.model_validate(merge).read(Home(Path("/h"))).recipe.merge_method == name
    for parameter in required:
        less = without(merge, parameter)
        less["models"] = [
            {k: v for k, v in row.items() if k != parameter} for row in merge["models"]
        ]
        with pytest.raises(ValidationError, match=parameter):
            check(less)


def test_the_schema_is_one_that_prefect_takes() -> None:
    is_valid_schema(SCHEMA)
    with pytest.raises(ValidationError, match=r"field 'merge.t'. Failure reason: 'nothing here"):
        validate({"name": "n", "merge": {**PAIR, "t": 1}}, SCHEMA, raise_on_error=True)


def test_a_form_is_the_recipe_that_one_would_write(home: Home, tmp_path: Path) -> None:
    filled = {"method": "ties", **PAIR, "density": 0.3, "lambda": 0.9, "dtype": "bfloat16"}
    recipe = MergeForm.model_validate(filled).read(home).recipe
    text = """
        merge_method: ties
        base_model: base
        models:
          - {model: a, parameters: {weight: 0.5}}
          - {model: b, parameters: {weight: 0.5}}
        parameters: {density: 0.3, lambda: 0.9}
        out_dtype: bfloat16
    """
    (tmp_path / "recipe.yaml").write_text(text)
    typed = MergeForm(recipe=text).read(home)
    from_file = MergeForm(recipe=str(tmp_path / "recipe.yaml")).read(home)
    assert recipe.digest == typed.recipe.digest == from_file.recipe.digest
    assert typed.beside is None
    assert from_file.beside == tmp_path


def test_a_recipe_file_may_be_named_from_the_home(home: Home) -> None:
    home.path.mkdir()
    text = "merge_method: linear\nmodels: [{model: a}, {model: b}]\n"
    (home.path / "r.yaml").write_text(text)
    assert MergeForm(recipe="$MERGEFLOW_HOME/r.yaml").read(home).beside == home.path
    with pytest.raises(RecipeError, match=r"there is no file .*/s\.yaml"):
        MergeForm(recipe="$MERGEFLOW_HOME/s.yaml").read(home)


def test_the_forms_rule_is_the_pipelines_rule(home: Home) -> None:
    assert PromotionRule(**PromotionForm().model_dump()) == PromotionRule()
    filled = MergeForm.model_validate(PAIR).read(home)
    strict = PromotionForm(max_regression=0.0, on_inconclusive="promote")
    pipeline = pipeline_of(filled, "n", "suite", strict, "", "cpu")
    assert pipeline.promote == PromotionRule(max_regression=0.0, on_inconclusive="promote")
    assert pipeline.register_as.model is None
    assert pipeline.evaluate.device == pipeline.execution.device == "cpu"


def test_every_field_of_the_form_has_help_and_a_place() -> None:
    for name, definition in SCHEMA["definitions"].items():
        fields = definition["properties"]
        assert sorted(field["position"] for field in fields.values()) == sorted(
            {field["position"] for field in fields.values()}
        ), name
        assert all(field["description"] and field["title"] for field in fields.values()), name
    assert all(field.get("description") for field in SCHEMA["properties"].values())


def test_no_field_of_the_form_is_drawn_as_tabs() -> None:
    for definition in SCHEMA["definitions"].values():
        for name, field in definition["properties"].items():
            assert "anyOf" not in field, name
            assert field.get("default", 0) is not None, name
