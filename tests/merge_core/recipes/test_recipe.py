"""What recipes may say, and what is said back when they say something else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from merge_core.errors import RecipeError
from merge_core.files.strict_yaml import load_yaml
from merge_core.methods import METHODS
from merge_core.recipes.loading import load_recipe, parse_recipe
from merge_core.recipes.parameters import gradient
from merge_core.recipes.warnings import warnings_of
from merge_core.tensors.names import depths_of, layer_counts

GOOD = """
merge_method: ties
base_model: org/base
models:
  - model: org/code@main
    parameters: {weight: 0.5, density: [0.2, 0.5]}
  - model: ./prose
    parameters:
      weight:
        - filter: mlp
          value: [0.1, 0.9]
        - value: 0.3
parameters: {normalize: true, lambda: 0.9}
dtype: float32
out_dtype: bfloat16
"""


def test_a_recipe_of_mergekit_is_read() -> None:
    recipe = parse_recipe(GOOD)
    assert recipe.references() == ["org/base", "org/code@main", "./prose"]
    assert recipe.stored_dtype == "BF16"
    assert recipe.donor == "org/base"
    assert warnings_of(recipe) == []


def test_references_may_be_written_as_mergekit_writes_them_in_full() -> None:
    path = {"path": "org/model", "revision": "v2"}
    recipe = parse_recipe(
        {
            "merge_method": "linear",
            "base_model": {"model": "org/base"},
            "models": [
                {"model": {"model": path}},
                {"model": {"model": path, "lora": {"path": "org/lora"}}},
            ],
        }
    )
    assert recipe.references() == ["org/base", "org/model@v2", "org/model@v2+org/lora"]
    assert parse_recipe(recipe.to_yaml()).digest == recipe.digest


def bad(**changes: Any) -> dict[str, Any]:
    recipe: dict[str, Any] = {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": [{"model": "a", "parameters": {"weight": 0.5}}],
    }
    return {key: value for key, value in (recipe | changes).items() if value is not None}


MISTAKES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "unknown method": (
        bad(merge_method="task_arithmatic"),
        ["merge_method", "unknown method 'task_arithmatic'", "did you mean 'task_arithmetic'?"],
    ),
    "unknown key": (bad(modells=[]), ["modells: unknown key", "did you mean 'models'?"]),
    "typo in a parameter": (
        bad(models=[{"model": "a", "parameters": {"wieght": 1}}]),
        ["models[0].parameters.wieght", "no parameter 'wieght'", "did you mean 'weight'?"],
    ),
    "typo in a recipe-wide parameter": (
        bad(parameters={"lamda": 1}),
        ["parameters.lamda", "did you mean 'lambda'?"],
    ),
    "recipe-wide parameter at a model": (
        bad(models=[{"model": "a", "parameters": {"weight": 1, "lambda": 0.5}}]),
        ["models[0].parameters.lambda", "'lambda' is set once for all models"],
    ),
    "weights for a model that is not listed": (
        bad(parameters={"weight": {"b": 1}}),
        ["parameters.weight", "model 'b', which is not listed"],
    ),
    "weights by model at the wrong place": (
        bad(parameters={"weight": {"a": 1}}),
        ["models[i].parameters.weight"],
    ),
    "missing weight": (
        bad(models=[{"model": "a"}]),
        ["models[0].parameters.weight", "needs 'weight' of 'a'"],
    ),
    "a filter without a rest": (
        bad(models=[{"model": "a", "parameters": {"weight": [{"filter": "mlp", "value": 1}]}}]),
        ["needs 'weight' of 'a'"],
    ),
    "a lone filter without its value": (
        bad(parameters={"weight": {"filter": "mlp"}}),
        ["a filter must be an entry of a list"],
    ),
    "weight as text": (
        bad(models=[{"model": "a", "parameters": {"weight": "half"}}]),
        ["weight must be a number, not 'half'"],
    ),
    "weight that is not finite": (
        bad(models=[{"model": "a", "parameters": {"weight": float("nan")}}]),
        ["must be a finite number"],
    ),
    "density above 1": (
        bad(
            merge_method="ties",
            models=[{"model": "a", "parameters": {"weight": 1, "density": 20}}],
        ),
        ["models[0].parameters.density", "between 0 and 1, not 20"],
    ),
    "t outside the arc": (
        bad(merge_method="slerp", models=[{"model": "a"}], parameters={"t": 1.5}),
        ["parameters.t", "between 0 and 1"],
    ),
    "no t": (
        bad(merge_method="slerp", models=[{"model": "a"}]),
        ["parameters.t", "slerp needs 't'"],
    ),
    "no base": (bad(base_model=None), ["task_arithmetic needs base_model"]),
    "no models": (bad(models=[]), ["list the models under models, or layers under slices"]),
    "only the base": (
        bad(models=[{"model": "base", "parameters": {"weight": 1}}]),
        ["needs a model besides the base"],
    ),
    "too many models": (
        bad(merge_method="slerp", models=[{"model": "a"}, {"model": "b"}], parameters={"t": 0}),
        ["slerp takes 1 model besides the base, not 2"],
    ),
    "a model twice": (
        bad(parameters={"weight": 1}, models=[{"model": "a"}, {"model": "a"}]),
        ["models[1].model", "'a' is listed twice"],
    ),
    "a reference without a path": (
        bad(models=[{"model": {"model": {"revision": "v2"}}}]),
        ["models[0].model", "a reference is a text, or"],
    ),
    "a typo in a reference": (
        bad(models=[{"model": {"model": {"path": "a", "revison": "v2"}}}]),
        ["models[0].model", "did you mean 'revision'?"],
    ),
    "another architecture": (
        bad(base_model={"model": "base", "override_architecture": "LlamaForCausalLM"}),
        ["base_model", "override_architecture is not supported"],
    ),
    "unknown dtype": (bad(dtype="bfloat"), ["dtype", "did you mean 'bfloat16'?"]),
    "tokenizer of a stranger": (
        bad(tokenizer_source="b"),
        ["tokenizer_source", "'b' is not one of the checkpoints"],
    ),
    "a flag as text": (bad(parameters={"normalize": "yes"}), ["must be true or false"]),
    "rescale in a strange way": (
        bad(merge_method="dare_ties", parameters={"rescale": "l3"}),
        ["rescale cannot be 'l3'"],
    ),
    "models and modules": (
        bad(modules={"vision": {"models": [{"model": "a"}]}}),
        ["models: list the models", "one of the three"],
    ),
    "a module of nothing": (
        bad(models=None, modules={"vision": {"parameters": {"weight": 1}}}),
        ["modules.vision", "list the models under models, or layers under slices"],
    ),
    "a module's name between dots": (
        bad(models=None, modules={"a..b": {"models": [{"model": "a"}]}}),
        ["modules.a..b", "no part of tensor names"],
    ),
    "a typo in a module's parameters": (
        bad(models=None, modules={"m": {"models": [{"model": "a"}], "parameters": {"wieght": 1}}}),
        ["modules.m.parameters.wieght", "did you mean 'weight'?"],
    ),
    "a typo in a filter's key": (
        bad(parameters={"weight": [{"globb": "*.mlp.*", "value": 1}, {"value": 0}]}),
        ["parameters.weight[0]", "unknown key 'globb'", "did you mean 'glob'?"],
    ),
    "two filters in one entry": (
        bad(parameters={"weight": [{"glob": "*.mlp.*", "group": "mlp", "value": 1}, {"value": 0}]}),
        ["parameters.weight[0]", "one filter, not glob and group"],
    ),
    "a filter where a list is due": (
        bad(exclude="embed"),
        ["exclude: this must be a list"],
    ),
    "no regular expression": (
        bad(parameters={"weight": [{"regex": "q_proj|(", "value": 1}, {"value": 0}]}),
        ["parameters.weight[0].regex", "'q_proj|(' is no regular expression", "use glob"],
    ),
    "an unknown group": (
        bad(parameters={"weight": [{"group": ["mlp", "atention"], "value": 1}, {"value": 0}]}),
        ["parameters.weight[0].group", "did you mean 'attention'?"],
    ),
    "an endless pattern": (
        bad(exclude=[{"regex": "a" * 301}]),
        ["exclude[0].regex", "longer than 300 characters"],
    ),
    "everything excluded": (bad(exclude=["*"]), ["exclude[0]", "excludes every tensor"]),
    "a value in exclude": (
        bad(exclude=[{"group": "head", "value": 1}]),
        ["exclude[0]", "unknown key 'value'"],
    ),
    "an unknown post-step": (bad(post=[{"svcc": {}}]), ["post[0]", "'svcc'", "did you mean 'svc'"]),
    "a post-step as a word": (bad(post=["svc"]), ["post[0]", "a mapping of one key"]),
    "a typo in a post-step": (
        bad(post=[{"lines": {"alhpa": 1, "beta": 1}}]),
        ["post[0].lines.alhpa", "did you mean 'alpha'?"],
    ),
    "a post-step without what it needs": (
        bad(post=[{"lines": {"alpha": 1}}]),
        ["post[0].lines.beta", "lines needs 'beta'"],
    ),
    "a post-step without a base": (
        bad(merge_method="linear", base_model=None, post=[{"lines": {"alpha": 1, "beta": 1}}]),
        ["post", "needs base_model"],
    ),
    "weights that cancel": (
        bad(
            merge_method="linear",
            parameters={"weight": 1},
            models=[{"model": "a"}, {"model": "b", "parameters": {"weight": -1}}],
        ),
        ["models", "add up to 0"],
    ),
    "a number beyond all bounds": (
        bad(parameters={"weight": 10**400}),
        ["parameters.weight", "must be a finite number"],
    ),
    "models and slices": (
        bad(slices=[{"sources": [{"model": "a", "layer_range": [0, 2]}]}]),
        ["layers under slices", "one of the three"],
    ),
    "a weight that mergekit ignores": (
        bad(
            models=None,
            slices=[
                {"sources": [{"model": "a", "layer_range": [0, 2]}], "residual_weight": 0.5},
            ],
        ),
        ["slices[0].residual_weight", "remove it"],
    ),
    "ranges of different lengths": (
        bad(
            models=None,
            parameters={"weight": 1},
            slices=[
                {
                    "sources": [
                        {"model": "a", "layer_range": [0, 2]},
                        {"model": "b", "layer_range": [0, 3]},
                    ]
                }
            ],
        ),
        ["slices[0].sources", "equally long"],
    ),
    "a typo in a slice": (
        bad(models=None, slices=[{"sources": [{"model": "a", "layers": [0, 2]}]}]),
        ["slices[0].sources[0].layers: unknown key", "slices[0].sources[0].layer_range"],
    ),
    "a typo in a slice's parameters": (
        bad(
            models=None,
            slices=[
                {
                    "sources": [{"model": "a", "layer_range": [0, 2], "parameters": {"weight": 1}}],
                    "parameters": {"lamda": 1},
                }
            ],
        ),
        ["slices[0].parameters.lamda", "did you mean 'lambda'?"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", sorted(MISTAKES))
def test_a_mistake_is_named_with_its_place(mistake: str) -> None:
    recipe, parts = MISTAKES[mistake]
    with pytest.raises(RecipeError) as caught:
        parse_recipe(recipe, where="my.yaml")
    message = str(caught.value)
    assert message.startswith("my.yaml")
    for part in parts:
        assert part in message


def test_a_key_of_any_length_makes_a_short_message() -> None:
    text = f"merge_method: linear\nmodels: [{{model: a}}]\n? {'long' * 5000}\n: 1\n"
    with pytest.raises(RecipeError, match="unknown key 'longlong") as caught:
        parse_recipe(text)
    assert len(str(caught.value)) < 1000


def test_a_key_given_twice_is_an_error_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("merge_method: linear\nmodels: []\nmerge_method: ties\n")
    with pytest.raises(RecipeError, match=r"recipe\.yaml:3.*'merge_method' is given twice"):
        load_recipe(path)


@pytest.mark.parametrize(
    "text",
    [
        "- a",
        "a: [",
        "!!python/object/apply:os.system [true]",
        "",
        "a: 1\n---\n- b",
        "a: 2026-02-31",
        f"a: {'9' * 5000}",
    ],
)
def test_what_is_no_plain_yaml_mapping_is_refused(text: str) -> None:
    with pytest.raises(RecipeError):
        parse_recipe(text)


@pytest.mark.parametrize("text", ["1e-5", "1E-5", "1.0e-5", "0.00001", "1.e-5", ".1e-4"])
def test_numbers_are_numbers_however_they_are_written(text: str) -> None:
    recipe = parse_recipe(
        f"{{merge_method: ram, base_model: base, models: [{{model: a}}], parameters:"
        f" {{epsilon: {text}}}}}"
    )
    assert recipe.parameters == {"epsilon": 1e-5}


def test_scales_above_one_and_crowds_are_warned_of() -> None:
    models = [{"model": f"m{i}", "parameters": {"weight": 0.2}} for i in range(5)]
    crowd = parse_recipe(bad(models=models))
    assert ["5 models" in warning for warning in warnings_of(crowd)] == [True]
    steep = parse_recipe(
        bad(models=[{"model": "a", "parameters": {"weight": [0.5, 2.5]}}], parameters={"lambda": 3})
    )
    assert ["models[0].parameters.weight is 2.5" in w for w in warnings_of(steep)] == [True, False]
    assert "parameters.lambda is 3" in warnings_of(steep)[1]


def test_the_digest_is_of_the_meaning() -> None:
    plain = parse_recipe(GOOD)
    spaced = parse_recipe(GOOD.replace("dtype: float32", "dtype:    float32   # stored elsewhere"))
    named = parse_recipe(GOOD + "name: nightly\n")
    other = parse_recipe(GOOD.replace("0.9]", "0.8]"))
    assert plain.digest == spaced.digest == named.digest
    assert plain.digest != other.digest


def test_gradients_interpolate_over_the_layers() -> None:
    assert [gradient([0, 0.5, 1], t) for t in (0, 0.25, 0.5, 0.9, 1)] == [0, 0.25, 0.5, 0.9, 1]
    names = [f"model.layers.{layer}.w" for layer in range(5)]
    counts = layer_counts([names[0], names[4], "vision.blocks.0.w", "head"])
    assert counts == {"model.layers": 5, "vision.blocks": 1}
    assert depths_of([*names, "vision.blocks.0.w", "head"]) == [0, 0.25, 0.5, 0.75, 1, 1, None]
    assert depths_of(names[2::2]) == [0.5, 1]


@given(st.permutations(["merge_method", "base_model", "models", "parameters", "dtype"]))
def test_the_order_of_keys_means_nothing(order: list[str]) -> None:
    recipe = bad(parameters={"lambda": 0.5}, dtype="float32")
    shuffled = {key: recipe[key] for key in order}
    assert parse_recipe(shuffled).digest == parse_recipe(recipe).digest


def test_the_recipes_of_the_documentation_are_right() -> None:
    text = (Path(__file__).parents[3] / "docs" / "recipes.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    complete = [block for block in blocks if "merge_method" in block]
    for block in complete:
        parse_recipe(block)
    for block in blocks:
        if block not in complete:
            parse_recipe(bad() | load_yaml(block))
    assert len(complete) >= 4


def test_every_method_explains_itself() -> None:
    for method in METHODS.values():
        assert " = " in method.formula()
        assert method.paper
        assert all(parameter.help for parameter in method.parameters)
