"""The form of each common merge: its own fields, what it asks for and says, and its recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jsonschema.exceptions import best_match
from prefect.utilities.schema_tools.validation import build_error_obj, is_valid_schema, validate

from flows import merge_from_form
from flows.settings.form_fields import AS_STORED
from flows.settings.method_forms import FORMS
from flows.stack.deployments import read_deployments
from merge_core.errors import RecipeError
from merge_core.homes.home import Home
from merge_core.methods import METHODS
from merge_core.recipes.loading import parse_recipe
from tasks.evaluation.suite import load_suite

ENTRIES = {entry["name"]: entry for entry in read_deployments()}
SCHEMAS = {
    name: getattr(
        merge_from_form, ENTRIES[name]["entrypoint"].rpartition(".")[2]
    ).parameters.model_dump_for_openapi()
    for name in FORMS
}
PAIR = [{"model": "./a", "weight": 0.5}, {"model": "./b", "weight": 0.5}]
VECTORS = {"name": "n", "base": "./base", "models": PAIR}
FILLED: dict[str, dict[str, Any]] = {
    "average": {"name": "n", "models": PAIR},
    "task-arithmetic": VECTORS,
    "ties": {**VECTORS, "density": 0.3},
    "dare": {**VECTORS, "density": 0.5},
    "slerp": {"name": "n", "base": "./a", "model": "./b", "t": 0.4},
    "stack-layers": {
        "name": "n",
        "runs": [
            {"model": "./a", "first": 0, "last": 11},
            {"model": "./b", "first": 8, "last": 15},
        ],
    },
    "recipe": {"name": "n", "recipe": "merge_method: linear\nmodels: [{model: a}, {model: b}]\n"},
}
OWN = {
    "average": {"models"},
    "task-arithmetic": {"base", "models", "scale"},
    "ties": {"base", "models", "density", "scale"},
    "dare": {"base", "models", "density", "elect_signs", "scale"},
    "slerp": {"base", "model", "t"},
    "stack-layers": {"runs"},
    "recipe": {"recipe"},
}
COMMON = {"name", "suite", "own_suite", "promote", "registered_model", "device", "dry_run"}


def every_field(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The fields of a form and of its parts, by their path."""
    found = dict(schema["properties"])
    for part, definition in schema.get("definitions", {}).items():
        found |= {f"{part}.{name}": field for name, field in definition["properties"].items()}
    return found


@pytest.mark.parametrize("name", FORMS)
def test_a_form_has_the_fields_of_its_merge_alone(name: str) -> None:
    stored = set() if name == "recipe" else {"dtype"}
    assert set(SCHEMAS[name]["properties"]) == OWN[name] | COMMON | stored
    assert set(FORMS[name].model_fields) == set(SCHEMAS[name]["properties"])
    assert next(iter(SCHEMAS[name]["properties"])) == "name"


@pytest.mark.parametrize("name", FORMS)
def test_what_has_to_be_there_is_marked_so_and_the_rest_begins_with_something(name: str) -> None:
    schema = SCHEMAS[name]
    is_valid_schema(schema)
    assert validate(FILLED[name], schema) == []
    for field in schema["required"]:
        less = {key: value for key, value in FILLED[name].items() if key != field}
        (error,) = validate(less, schema)
        assert error.message == f"'{field}' is a required property"
    assert set(schema["required"]) == set(FILLED[name])
    for field, said in schema["properties"].items():
        assert "default" in said, field


@pytest.mark.parametrize("name", FORMS)
def test_every_field_has_a_title_and_help(name: str) -> None:
    for field, said in every_field(SCHEMAS[name]).items():
        assert said["description"][0].isupper(), field
        assert said.get("title", "Promotion rule")[0].isupper(), field
        assert "anyOf" not in said, f"{field} would be drawn as tabs"


@pytest.mark.parametrize("name", FORMS)
def test_no_field_answers_with_a_pattern_or_as_non_empty(name: str) -> None:
    for field, said in every_field(SCHEMAS[name]).items():
        bare = {"pattern", "minLength", "maxLength", "minItems", "maxItems", "minimum", "maximum"}
        assert not bare & set(said), field


def test_the_shipped_suites_are_a_list() -> None:
    for name in FORMS:
        for suite in SCHEMAS[name]["properties"]["suite"]["enum"]:
            assert load_suite(suite).name == suite
    form = FORMS["slerp"].model_validate(FILLED["slerp"])
    assert form.judged_by == "english-small"
    assert form.model_copy(update={"own_suite": "./mine"}).judged_by == "./mine"


@pytest.mark.parametrize(
    ("name", "changes", "place", "said"),
    [
        ("ties", {"name": "zoo\n"}, "name", "'letters, digits, dot, dash and underscore"),
        ("ties", {"registered_model": "\n"}, "registered_model", "'letters, digits, dot, dash"),
        ("ties", {"density": 1.5}, "density", "'a share between 0 and 1' was expected"),
        ("dare", {"density": -0.1}, "density", "'a share between 0 and 1' was expected"),
        ("slerp", {"t": 2}, "t", "'a number between 0 and 1' was expected"),
        ("ties", {"name": "two words"}, "name", "'letters, digits, dot, dash and underscore"),
        ("ties", {"base": " "}, "base", "'a directory such as ./runs/code"),
        ("ties", {"models": []}, "models", "'at least one model, one row each' was expected"),
        ("average", {"models": PAIR[:1]}, "models", "'at least two models, one row each'"),
        ("average", {"models": [*PAIR, {"model": "", "weight": 1}]}, "models[2].model", "'a dir"),
        ("stack-layers", {"runs": []}, "runs", "'at least one run of layers' was expected"),
        ("recipe", {"recipe": ""}, "recipe", "'the text of a recipe, or the path of a file"),
        ("slerp", {"registered_model": "a/b"}, "registered_model", "'letters, digits"),
        (
            "slerp",
            {"promote": {"min_gain": -2}},
            "promote.min_gain",
            "'a number between -1 and 100'",
        ),
        ("slerp", {"promote": {"approve_within": "soon"}}, "promote.approve_within", "'a duration"),
        ("dare", {"promote": {"guard_margin": 0}}, "promote.guard_margin", "0 and 10, and not 0'"),
        ("dare", {"promote": {"nights": 0}}, "promote.nights", "'a number between 1 and 10000'"),
        ("dare", {"promote": {"baseline": []}}, "promote.baseline", "'at least one baseline, such"),
        (
            "dare",
            {"promote": {"gate": "calibrated", "min_gain": 0.1}},
            "promote.min_gain",
            "'nothing here: only the former gate takes it'",
        ),
        (
            "dare",
            {"promote": {"gate": "former", "exceed": 0.1}},
            "promote.exceed",
            "'nothing here: only the calibrated gate takes it'",
        ),
        ("slerp", {"suite": "siute"}, "suite", "is not one of ['chat', 'code', 'english-small'"),
    ],
    ids=str,
)
def test_a_mistake_is_told_at_its_field_in_one_sentence(
    name: str, changes: dict[str, Any], place: str, said: str
) -> None:
    errors = validate({**FILLED[name], **changes}, SCHEMAS[name])
    (error,) = errors
    assert error == best_match(errors)
    assert error.json_path == f"$.{place}"
    assert said in error.message
    assert not build_error_obj(errors)["valid"]


@pytest.mark.parametrize(
    ("name", "changes", "text"),
    [
        ("average", {}, "{merge_method: linear, models: MODELS}"),
        (
            "task-arithmetic",
            {"scale": 0.8, "dtype": "bfloat16"},
            "{merge_method: task_arithmetic, base_model: ./base, models: MODELS,"
            " parameters: {lambda: 0.8}, out_dtype: bfloat16}",
        ),
        (
            "ties",
            {},
            "{merge_method: ties, base_model: ./base, models: MODELS,"
            " parameters: {density: 0.3, lambda: 1.0}}",
        ),
        (
            "dare",
            {},
            "{merge_method: dare_ties, base_model: ./base, models: MODELS,"
            " parameters: {density: 0.5, lambda: 1.0}}",
        ),
        (
            "dare",
            {"elect_signs": False},
            "{merge_method: dare_linear, base_model: ./base, models: MODELS,"
            " parameters: {density: 0.5, lambda: 1.0}}",
        ),
        (
            "slerp",
            {},
            "{merge_method: slerp, base_model: ./a, models: [{model: ./b}], parameters: {t: 0.4}}",
        ),
        (
            "stack-layers",
            {},
            "{merge_method: passthrough, slices: ["
            "{sources: [{model: ./a, layer_range: [0, 12]}]},"
            "{sources: [{model: ./b, layer_range: [8, 16]}]}]}",
        ),
        ("recipe", {}, FILLED["recipe"]["recipe"]),
    ],
)
def test_a_form_is_the_recipe_that_one_would_write(
    name: str, changes: dict[str, Any], text: str, tmp_path: Path
) -> None:
    models = "[{model: ./a, parameters: {weight: 0.5}}, {model: ./b, parameters: {weight: 0.5}}]"
    form = FORMS[name].model_validate({**FILLED[name], **changes})
    written = parse_recipe(text.replace("MODELS", models), where="test")
    assert form.read(Home(tmp_path)).recipe.digest == written.digest


def test_a_run_of_layers_that_goes_backwards_says_which(tmp_path: Path) -> None:
    runs = [{"model": "./a", "first": 0, "last": 3}, {"model": "./a", "first": 5, "last": 4}]
    form = FORMS["stack-layers"].model_validate({"name": "n", "runs": runs})
    with pytest.raises(RecipeError, match=r"runs\[1\]: the last layer, 4, comes before the first"):
        form.read(Home(tmp_path))


def test_bounds_and_help_are_the_methods_own() -> None:
    for name, method, field in (
        ("ties", "ties", "density"),
        ("dare", "dare_linear", "density"),
        ("slerp", "slerp", "t"),
    ):
        (parameter,) = (each for each in METHODS[method].parameters if each.name == field)
        said = SCHEMAS[name]["properties"][field]
        assert said["description"].lower().startswith(parameter.help.lower())
        assert said["if"]["not"] == {"minimum": parameter.low, "maximum": parameter.high}


def test_each_form_is_a_deployment_of_the_flow_that_takes_it() -> None:
    forms = [name for name, entry in ENTRIES.items() if "form" in entry["tags"]]
    assert forms == [*FORMS, "search", "audit", "merge"]
    for name in set(forms) - {"audit"}:
        module, _, flow = ENTRIES[name]["entrypoint"].rpartition(".")
        assert module == merge_from_form.__name__
        assert getattr(merge_from_form, flow).__name__ == flow
    assert SCHEMAS["ties"]["properties"]["dtype"]["default"] == AS_STORED
