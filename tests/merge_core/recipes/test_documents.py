"""Recipes of several documents: the later ones use the earlier ones by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from merge_core.errors import RecipeError
from merge_core.recipes.loading import load_recipe, parse_recipe
from merge_core.recipes.warnings import warnings_of

CHAIN = """
name: soup
merge_method: linear
models: [{model: a}, {model: b}]
parameters: {weight: 1}
---
name: expert
merge_method: ties
base_model: base
models: [{model: soup}, {model: c}]
parameters: {weight: 0.5}
---
merge_method: task_arithmetic
base_model: soup
models: [{model: expert}, {model: d}]
parameters: {weight: 0.3}
"""


def test_the_last_document_is_the_recipe_and_holds_the_others() -> None:
    recipe = parse_recipe(CHAIN)
    assert recipe.merge_method == "task_arithmetic"
    assert [each.name for each in recipe.recipes] == ["soup", "expert"]
    assert recipe.recipe_named("expert") is recipe.recipes[1]
    assert recipe.recipe_named("a") is None
    assert [each.name for each in recipe.recipes[1].recipes] == ["soup"]


def test_only_checkpoints_are_references_and_the_donor_comes_first() -> None:
    recipe = parse_recipe(CHAIN)
    assert recipe.direct_references() == ["soup", "expert", "d"]
    assert recipe.references() == ["a", "b", "base", "c", "d"]
    assert recipe.donor == recipe.tokenizer_donor == "a"
    assert recipe.recipes[1].references() == ["base", "a", "b", "c"]


def test_each_recipe_knows_what_it_needs_and_no_more() -> None:
    text = CHAIN.replace("models: [{model: soup}, {model: c}]", "models: [{model: c}]")
    expert = parse_recipe(text).recipes[1]
    assert expert.recipes == ()
    assert expert.references() == ["base", "c"]


def test_a_long_chain_is_read_in_no_time() -> None:
    documents = ["name: r0\nmerge_method: linear\nmodels: [{model: a}]\n"]
    documents += [
        f"name: r{i}\nmerge_method: task_arithmetic\nbase_model: r{i - 1}\n"
        f"models: [{{model: r{max(0, i - 2)}}}, {{model: b}}]\nparameters: {{weight: 1}}\n"
        for i in range(2, 64)
    ]
    documents.insert(1, documents[0].replace("r0", "r1").replace("model: a", "model: r0"))
    recipe = parse_recipe("---\n".join(documents))
    assert recipe.references() == ["a", "b"]
    assert parse_recipe(recipe.to_yaml()).digest == recipe.digest
    with pytest.raises(RecipeError, match="at most 64 documents"):
        parse_recipe("---\n".join([documents[0], *documents]))


def test_a_list_of_recipes_says_the_same_as_documents(tmp_path: Path) -> None:
    path = tmp_path / "chain.yaml"
    path.write_text(CHAIN)
    recipe = load_recipe(path)
    assert parse_recipe(recipe.model_dump(exclude_defaults=True)).digest == recipe.digest
    assert parse_recipe(recipe.model_dump(mode="json")).digest == recipe.digest
    assert recipe.to_yaml().count("---") == 2
    assert parse_recipe(recipe.to_yaml()).digest == recipe.digest


def test_the_digest_covers_the_earlier_recipes() -> None:
    digests = {
        parse_recipe(text).digest
        for text in (CHAIN, CHAIN.replace("weight: 0.5", "weight: 0.6"), CHAIN + "name: nightly")
    }
    assert len(digests) == 2


def test_warnings_name_the_recipe_they_are_about() -> None:
    recipe = parse_recipe(CHAIN.replace("weight: 0.5", "weight: 1.5"))
    assert warnings_of(recipe) == [
        "recipe expert: parameters.weight is 1.5: a scale above 1 often leaves the loss basin, in"
        " which models can be merged (1 and less are safer)"
    ]


MISTAKES = {
    "no name": (
        CHAIN.replace("name: soup\n", ""),
        ["chain.yaml: document 1: name", "needs a name"],
    ),
    "an empty document at the end": (
        CHAIN + "---\n",
        ["chain.yaml: document 4: this must be a mapping"],
    ),
    "a name given twice": (
        CHAIN.replace("name: expert", "name: soup"),
        ["document 1: name", "'soup' is given twice"],
    ),
    "the last one's name is taken": (
        CHAIN + "name: soup\n",
        ["document 1: name", "'soup' is given twice"],
    ),
    "a name that looks like a path": (
        CHAIN.replace("expert", "my/expert"),
        ["document 2: name", "'my/expert' cannot be used as a reference"],
    ),
    "a later recipe": (
        CHAIN.replace("model: b", "model: expert"),
        ["document 1: models[1].model", "uses 'expert', which comes later", "./NAME"],
    ),
    "itself": (
        CHAIN.replace("model: c", "model: expert"),
        ["document 2: models[1].model", "uses itself"],
    ),
    "a recipe that nobody uses": (
        CHAIN.replace("model: expert", "model: e"),
        ["document 2: the recipe 'expert' is not used"],
    ),
    "an adapter on a result": (
        CHAIN.replace("model: d", "model: soup+lora"),
        ["document 3: models[1].model", "adapter cannot be applied to the result of the recipe"],
    ),
    "a mistake inside": (
        CHAIN.replace("weight: 0.5", "wieght: 0.5"),
        ["document 2: parameters.wieght", "did you mean 'weight'?"],
    ),
    "an unknown key inside": (
        CHAIN.replace("name: soup", "name: soup\nmodells: []"),
        ["document 1: modells: unknown key"],
    ),
    "a tokenizer inside": (
        CHAIN.replace("name: soup", "name: soup\ntokenizer_source: union"),
        ["only the last recipe of several decides"],
    ),
    "a list of recipes in a document": (
        CHAIN + "recipes: [{name: x}]\n",
        ["document 3: recipes", "in one place"],
    ),
    "recipes within recipes": (
        "{merge_method: linear, models: [{model: x}], recipes: [{name: x, recipes: [{name: y}]}]}",
        ["recipes[0]", "in one place"],
    ),
    "recipes that are none": (
        "{merge_method: linear, models: [{model: x}], recipes: [x]}",
        ["recipes: must be a list of recipes"],
    ),
}


@pytest.mark.parametrize("mistake", sorted(MISTAKES))
def test_a_mistake_is_named_with_its_document(mistake: str) -> None:
    text, parts = MISTAKES[mistake]
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, where="chain.yaml")
    message = str(caught.value)
    assert message.startswith("chain.yaml")
    for part in parts:
        assert part in message


@pytest.mark.parametrize("text", ["", "# only a word\n", "---\n"])
def test_an_empty_recipe_is_called_empty(text: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError, match="it is empty"):
        load_recipe(file)
