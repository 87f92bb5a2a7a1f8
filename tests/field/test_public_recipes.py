"""Forms of recipes that people publish: each runs, warns once, or is refused with what to write.

Every fragment stands in a recipe of tiny related checkpoints. What runs has the digest of the same
recipe in plain words, so that both are one merge for caches and registries.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.cli import program
from merge_core.errors import CheckpointError, RecipeError
from merge_core.recipes.loading import load_recipe, parse_recipe
from merge_core.recipes.recipe import Recipe
from merge_core.recipes.warnings import warnings_of
from tasks.sources.references import parse_reference
from tests.support.tiny_llama import base_weights, fine_tuned, write_llama

TIES = """
merge_method: ties
base_model: ./base
models:
  - {model: ./one, parameters: {weight: 0.5, density: 0.5}}
  - {model: ./two, parameters: {weight: 0.25, density: 0.5}}
"""
SLERP = """
merge_method: slerp
base_model: ./base
parameters: {t: 0.3}
models: [{model: ./one}]
"""
SCE = """
merge_method: sce
base_model: ./base
models: [{model: ./one}, {model: ./two}]
"""


def of(method: str, entry: str = "", top: str = "", models: str = "one two") -> str:
    """A recipe of a method, with something at its first model and at its top."""
    first, *others = models.split()
    extra = f", parameters: {{{entry}}}" if entry else ""
    listed = [f"  - {{model: ./{first}{extra}}}", *(f"  - {{model: ./{name}}}" for name in others)]
    return "\n".join([f"merge_method: {method}", "base_model: ./base", top, "models:", *listed, ""])


SAME = {
    "a flag of 1.0": (
        TIES + "parameters: {normalize: 1.0}",
        TIES + "parameters: {normalize: true}",
    ),
    "flags of 0.0 and 1": (
        TIES + "parameters: {int8_mask: 0.0, rescale: 1}",
        TIES + "parameters: {int8_mask: false, rescale: true}",
    ),
    "a quoted flag": (
        TIES + "parameters: {normalize: 'true'}",
        TIES + "parameters: {normalize: true}",
    ),
    "a quoted number": (TIES.replace("weight: 0.5", 'weight: "0.5"'), TIES),
    "quoted numbers in a gradient": (
        TIES.replace("weight: 0.5", 'weight: ["0.5", " 1 "]'),
        TIES.replace("weight: 0.5", "weight: [0.5, 1]"),
    ),
    "a filter without a list": (
        TIES.replace("density: 0.5", "density: {filter: mlp, value: 0.5}"),
        TIES.replace("density: 0.5", "density: [{filter: mlp, value: 0.5}]"),
    ),
    "what a model card says of itself": (
        TIES + "license: apache-2.0\ntags: [merge, a]\nlanguage: en\nname: Mine",
        TIES,
    ),
    "keys that hold anchors": (
        "x-weights: &w {weight: 0.5, density: 0.5}\n"
        + TIES.replace("{weight: 0.5, density: 0.5}", "*w"),
        TIES,
    ),
    "empty parameters": (TIES + "parameters:\n", TIES),
    "empty parameters at a model": (
        "merge_method: linear\nmodels:\n  - model: ./one\n    parameters:\n  - model: ./two\n",
        "merge_method: linear\nmodels: [{model: ./one}, {model: ./two}]",
    ),
    "a base with and without a slash": (
        TIES.replace("models:\n", "models:\n  - {model: ./base/}\n"),
        TIES.replace("models:\n", "models:\n  - {model: ./base}\n"),
    ),
}
"""A form, and the same recipe as it always was."""

WITHOUT_EFFECT = {
    **{
        f"weight on {method}": (
            of(method, "weight: 0.7", top, models),
            ["models[0].parameters.weight"],
        )
        for method, top, models in (
            ("slerp", "parameters: {t: 0.3}", "one"),
            ("sce", "", "one two"),
            ("ram", "", "one two"),
            ("ramplus_tl", "", "one two"),
            ("model_stock", "", "one two"),
            ("arcee_fusion", "", "one"),
            ("nearswap", "parameters: {t: 0.001}", "one"),
            ("karcher", "", "one two"),
        )
    },
    "a weight with filters on model_stock": (
        of("model_stock", "weight: [{filter: mlp, value: [2, 1]}, {value: 1}]"),
        ["models[0].parameters.weight"],
    ),
    "many on sce": (
        of(
            "sce",
            "weight: 0.7, density: 0.5",
            "parameters: {normalize: true, rescale: true, smooth: true, lambda: 0.9}",
        ),
        [
            "parameters.normalize",
            "parameters.rescale",
            "parameters.smooth",
            "parameters.lambda",
            "models[0].parameters.weight",
            "models[0].parameters.density",
        ],
    ),
    "negative weights allowed where they are anyway": (
        of("task_arithmetic", "", "parameters: {weight: 1, allow_negative_weights: true}"),
        ["parameters.allow_negative_weights"],
    ),
    "what is set once, at a model, as it is anyway": (
        TIES.replace("{weight: 0.5,", "{normalize: true, weight: 0.5,"),
        ["models[0].parameters.normalize"],
    ),
}
"""A recipe that runs, and the parameters that its one warning names."""

REFUSED = {
    "a dtype under parameters": (
        TIES + "parameters: {dtype: bfloat16}",
        ["parameters.dtype", "`dtype` at the top level"],
    ),
    "a parameter at the top, and a dtype that is none": (
        SCE + "select_topk: 0.15\ndtype: float23",
        ["2 problems", "select_topk", "`parameters: {select_topk: ...}`", "did you mean 'float32'"],
    ),
    "a parameter at the top, and a dtype under parameters": (
        SCE + "select_topk: 0.15\nparameters: {dtype: float32}",
        ["2 problems", "`parameters: {select_topk: ...}`", "`dtype` at the top level"],
    ),
    "a revision beside a source": (
        "merge_method: passthrough\nslices:\n  - sources:\n"
        "      - {model: org/name, revision: v0, layer_range: [0, 2]}",
        ["slices[0].sources[0].revision", "`model: org/name@v0`"],
    ),
    "a method in a slice, and an unknown word": (
        "merge_method: linear\nint_space: 1\nslices:\n  - merge_method: slerp\n"
        "    sources: [{model: ./one, layer_range: [0, 2]}]",
        ["2 problems", "slices[0].merge_method", "several documents", "int_space"],
    ),
    "a method in a slice, and an unknown word under parameters": (
        "merge_method: linear\nparameters: {int_space: 1}\nslices:\n  - merge_method: slerp\n"
        "    sources: [{model: ./one, layer_range: [0, 2]}]",
        ["2 problems", "slices[0].merge_method", "parameters.int_space"],
    ),
    "mistakes at three models": (
        "merge_method: ties\nbase_model: ./base\nparameters: {wieght: 1}\nmodels:\n"
        "  - {model: ./one, parameters: {weight: half, density: 2}}\n"
        "  - {model: ./two, parameters: {weight: 1}}",
        ["3 problems", "parameters.wieght", "did you mean 'weight'", "not 'half'", "not 2"],
    ),
    "a seed by another name": (TIES + "random_seed: 42", ["random_seed", "`seed`"]),
    "a seed under parameters": (
        TIES + "parameters: {random_seed: 42}",
        ["parameters.random_seed", "`seed` at the top level"],
    ),
    "a flag at the top": (TIES + "normalize: true", ["`parameters: {normalize: ...}`"]),
    "a weight beside its model": (
        "merge_method: ties\nbase_model: ./base\nmodels: [{model: ./one, weight: 0.6, density: 1}]",
        ["2 problems", "models[0].weight", "`parameters: {weight: ...}`", "models[0].density"],
    ),
    "a base alone that has an adapter": (
        "merge_method: task_arithmetic\nbase_model: ./base+./lora\nparameters: {weight: 1}\n"
        "models: [{model: ./base+./lora}]",
        ["needs a model besides the base", "use passthrough", "'./base+./lora' under models"],
    ),
    "slerp without a base": (
        "merge_method: slerp\nparameters: {t: 0.5}\nmodels: [{model: ./one}, {model: ./two}]",
        ["one of the two ends", "name one of the 2 models as base_model"],
    ),
    "a model twice by two spellings": (
        "merge_method: linear\nmodels: [{model: ./one}, {model: ./one/}]",
        ["models[1].model", "'./one' is listed twice"],
    ),
    "layers of models": (
        "merge_method: linear\nmodels: [{model: ./one, layer_range: [0, 2]}]",
        ["models[0].layer_range", "slices: [{sources:"],
    ),
    "a mixture of experts": (
        "base_model: ./base\ngate_mode: hidden\nexperts: [{source_model: ./one}]",
        ["mixture of experts", "merge_method"],
    ),
    "negative weights forbidden, and there": (
        of(
            "task_arithmetic",
            "weight: -1",
            "parameters: {weight: 1, allow_negative_weights: false}",
        ),
        ["parameters.allow_negative_weights", "there are some"],
    ),
    "what is set once, at a model, otherwise": (
        TIES.replace("{weight: 0.5,", "{normalize: false, weight: 0.5,"),
        ["models[0].parameters.normalize", "set once for all models"],
    ),
    "a percentage": (TIES.replace("weight: 0.5", "weight: 50%"), ["must be a number, not '50%'"]),
    "no number in quotes": (
        TIES.replace("weight: 0.5", 'weight: "nan"'),
        ["must be a number, not 'nan'"],
    ),
}
"""A recipe, and what the refusal says."""

FIRST_OF_TWO = """
name: first
merge_method: linear
models: [{model: ./one}, {model: ./two}]
tokenizer_source: union
---
merge_method: slerp
base_model: ./base
models: [{model: first}]
parameters: {t: 0.5}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a base and two fine-tunes of it."""
    base = base_weights()
    write_llama(tmp_path / "base", base)
    write_llama(tmp_path / "one", fine_tuned(base, 1))
    write_llama(tmp_path / "two", fine_tuned(base, 2))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(place: Path, text: str) -> str:
    (place / "recipe.yaml").write_text(text)
    return "recipe.yaml"


@pytest.mark.parametrize("form", sorted(SAME))
def test_a_form_is_the_recipe_that_it_means(form: str) -> None:
    text, plain = SAME[form]
    read, meant = parse_recipe(text), parse_recipe(plain)
    assert read.digest == meant.digest
    assert warnings_of(read) == warnings_of(meant)
    assert parse_recipe(read.to_yaml()).digest == read.digest


@pytest.mark.parametrize("form", sorted(WITHOUT_EFFECT))
def test_what_has_no_effect_is_one_warning_that_names_all(form: str) -> None:
    text, names = WITHOUT_EFFECT[form]
    recipe = parse_recipe(text)
    (warning,) = [each for each in warnings_of(recipe) if "no effect here; delete it" in each]
    listed = warning.partition(": ")[0].split(", ")
    assert sorted(listed) == sorted(names)
    with pytest.raises(RecipeError, match="no effect here; delete it"):
        recipe.refuse_idle_settings("recipe.yaml")
    assert warnings_of(parse_recipe(recipe.to_yaml())) == [
        each for each in warnings_of(recipe) if each != warning
    ]


@pytest.mark.parametrize("form", sorted(REFUSED))
def test_a_refusal_names_every_mistake_and_what_to_write(form: str) -> None:
    text, parts = REFUSED[form]
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text)
    for part in parts:
        assert part in str(caught.value)


def test_digests_of_recipes_are_what_they_were() -> None:
    digests = {
        "7a101ea0d7c8486212489739621aa1f1c5d4c44c7cdbe5481026b1117afb4d9a": """
merge_method: ties
base_model: ./base/
models:
  - {model: ./one/, parameters: {weight: 0.5, density: [1, 0.5]}}
  - {model: org/two@v2, parameters: {weight: [{filter: mlp, value: 1}, {value: 0}]}}
parameters: {normalize: true, int8_mask: true, lambda: 1}
name: x
""",
        "345329fc8388ffeccd20e15f3ba7cf4d3592c382bd9787d1d82a1fd320621dd8": """
name: first
merge_method: linear
tokenizer_source: base
models: [{model: ./a}, {model: ./b}]
---
merge_method: slerp
base_model: ./a
models: [{model: first}]
tokenizer_source: base
parameters: {t: 0.5}
""",
    }
    assert {parse_recipe(text).digest for text in digests.values()} == set(digests)


def test_one_warning_speaks_of_all_documents() -> None:
    both = FIRST_OF_TWO.replace("tokenizer_source: union", "parameters: {t: 1}").replace(
        "{t: 0.5}", "{t: 0.5, lambda: 1}"
    )
    (warning,) = warnings_of(parse_recipe(both))
    assert "recipe first: parameters.t, parameters.lambda: each has no effect" in warning


def test_an_earlier_document_may_say_of_tokens_what_the_last_says() -> None:
    agreed = parse_recipe(FIRST_OF_TWO + "tokenizer_source: union\n")
    only_last = FIRST_OF_TWO.replace("tokenizer_source: union\n", "") + "tokenizer_source: union\n"
    assert agreed.digest == parse_recipe(only_last).digest
    as_block = parse_recipe(FIRST_OF_TWO + "tokenizer: {source: union}\n")
    assert as_block.recipes[0].vocabulary is None
    for last in ("", "tokenizer_source: base\n"):
        with pytest.raises(RecipeError, match="only the last recipe of several decides on it"):
            parse_recipe(FIRST_OF_TWO + last)


def test_mistakes_of_several_documents_are_told_together() -> None:
    text = FIRST_OF_TWO.replace("tokenizer_source: union", "random_seed: 1") + "normalize: true\n"
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, "my.yaml")
    message = str(caught.value)
    assert "2 problems" in message
    assert "document 1: random_seed" in message
    assert "document 2: normalize" in message


def test_two_pluses_are_counted(place: Path) -> None:
    with pytest.raises(CheckpointError, match="there are 2 pluses"):
        parse_reference("./base+./one-lora+./two-lora", place)
    with pytest.raises(CheckpointError, match="there are 2 pluses"):
        parse_reference("org/base+org/one+org/two", place)


def test_a_byte_order_mark_and_carriage_returns_are_read(place: Path) -> None:
    (place / "recipe.yaml").write_bytes(b"\xef\xbb\xbf" + TIES.replace("\n", "\r\n").encode())
    assert load_recipe(place / "recipe.yaml").digest == parse_recipe(TIES).digest


def test_a_merge_warns_once_and_a_strict_one_refuses(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(place, WITHOUT_EFFECT["many on sce"][0])
    assert program.run(["merge", file, "out", "--threads", "1"]) == 0
    assert capsys.readouterr().err.count("no effect here") == 1
    for command in (["merge", file, "other", "--strict"], ["plan", file, "--strict"]):
        assert program.run(command) == 2
        assert "models[0].parameters.weight" in capsys.readouterr().err
    assert not (place / "other").exists()


def test_a_form_and_what_it_means_give_the_same_bytes(place: Path) -> None:
    weights = []
    for number, text in enumerate(SAME["a quoted number"]):
        file = written(place, text)
        assert program.run(["merge", file, f"out-{number}", "--threads", "1"]) == 0
        weights.append((place / f"out-{number}" / "SHA256SUMS").read_bytes())
    assert weights[0] == weights[1]


def test_a_recipe_read_again_from_its_values_is_the_same() -> None:
    for text, _ in SAME.values():
        recipe = parse_recipe(text)
        again = Recipe.model_validate(recipe.model_dump())
        assert again.digest == recipe.digest
