"""What holds for every recipe, right or wrong."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from merge_core.errors import CompatibilityError, MergeflowError, RecipeError
from merge_core.files.strict_yaml import dump_yaml
from merge_core.methods.parameter import Scalar
from merge_core.planning.explain import KEPT, Settings, explain
from merge_core.planning.merged_tensor import COPY
from merge_core.planning.plan import Plan, make_plan, open_inputs
from merge_core.recipes.loading import parse_recipe
from merge_core.records import SourceCheckpoint
from tests.support.checkpoints import write_checkpoint
from tests.support.recipe_strategies import LAYERS, NAMES, chains, recipes

quickly = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SourceCheckpoint]:
    """Four small checkpoints of two stacks, as `recipe_strategies` expects them."""
    directory = tmp_path_factory.mktemp("zoo")
    shapes = {name: (4,) if name.endswith("norm.weight") else (4, 4) for name in NAMES}
    tensors = {name: torch.ones(shape) for name, shape in shapes.items()}
    tensors["positions"] = torch.arange(4)
    zoo = {name: write_checkpoint(directory / name, tensors) for name in ("base", "a", "b", "c")}
    counts = {f"{part}_config": {"num_hidden_layers": count} for part, count in LAYERS.items()}
    for source in zoo.values():
        (source.directory / "config.json").write_text(json.dumps({"model_type": "own"} | counts))
    return zoo


def settings_of(plan: Plan) -> dict[str, tuple[object, ...]]:
    return {
        tensor.name: (
            tensor.method,
            tensor.slot.dtype,
            tensor.merged.model_parameters,
            tensor.merged.parameters,
            tensor.merged.post,
            tuple(source.name for source in tensor.merged.sources),
        )
        for tensor in plan.tensors
    }


@pytest.mark.slow
@settings(quickly, max_examples=80)
@given(recipe=recipes() | chains())
def test_a_right_recipe_is_read_and_planned(
    recipe: dict[str, Any], zoo: dict[str, SourceCheckpoint]
) -> None:
    plan = make_plan(parse_recipe(recipe), zoo)
    assert plan.tensors


@settings(quickly, max_examples=25)
@given(recipe=recipes() | chains())
def test_what_is_explained_is_what_is_planned(
    recipe: dict[str, Any], zoo: dict[str, SourceCheckpoint]
) -> None:
    parsed = parse_recipe(recipe)
    planned = {tensor.name: tensor.merged for tensor in make_plan(parsed, zoo).tensors}
    explained = [each for each in explain(parsed, open_inputs(parsed, zoo)) if not each.recipe]
    assert sorted(planned) == sorted(each.name for each in explained)
    for each in explained:
        if each.method in (KEPT, COPY):
            assert planned[each.name].post == ()
            continue
        computed = planned[each.name]
        assert each.method == computed.method
        assert [values(one) for one in each.model_settings] == list(computed.model_parameters)
        assert values(each.settings) == computed.parameters
        assert tuple((step, values(one)) for step, one in each.post) == computed.post


def values(resolved: Settings) -> dict[str, Scalar]:
    return {name: each.value for name, each in resolved.items()}


@pytest.mark.slow
@quickly
@given(recipe=recipes() | chains(), random=st.randoms(use_true_random=False))
def test_the_order_of_keys_means_nothing(
    recipe: dict[str, Any], random: Any, zoo: dict[str, SourceCheckpoint]
) -> None:
    def shuffled(value: Any) -> Any:
        if isinstance(value, list):
            return [shuffled(item) for item in value]
        if not isinstance(value, dict):
            return value
        keys = list(value)
        random.shuffle(keys)
        return {key: shuffled(value[key]) for key in keys}

    one, other = parse_recipe(recipe), parse_recipe(shuffled(recipe))
    assert one.digest == other.digest
    assert one.references() == other.references()
    first, second = make_plan(one, zoo), make_plan(other, zoo)
    assert first.digest == second.digest
    assert settings_of(first) == settings_of(second)


@quickly
@given(recipe=recipes() | chains())
def test_a_recipe_that_is_written_down_is_the_same_when_read(recipe: dict[str, Any]) -> None:
    parsed = parse_recipe(recipe)
    assert parse_recipe(parsed.to_yaml()).digest == parsed.digest
    assert parse_recipe(parsed.model_dump(mode="json")).digest == parsed.digest


@pytest.mark.slow
@quickly
@example(names=["1e5", ".5e-3", "null", "yes", "\x85", "---", "a: b", "2026-02-01"])
@given(names=st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=3, unique=True))
def test_names_survive_being_written_down(names: list[str]) -> None:
    recipe = {"merge_method": "linear", "models": [{"model": name} for name in names]}
    parsed = parse_recipe(recipe)
    again = parse_recipe(parsed.to_yaml())
    assert [entry.model for entry in again.models] == names


NONSENSE: list[Any] = [
    None,
    True,
    -1,
    10**400,
    float("nan"),
    float("inf"),
    "",
    "nonsense",
    "a+b",
    "(",
    [],
    {},
    [[]],
    [None],
    [{}],
    [{"value": 1}],
    [{"filter": 1, "value": 1}],
    [{"regex": "(", "value": 1}],
    {"filter": "x", "value": 1},
    {"a": 1},
]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of everything inside a recipe."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*path, key)
        if isinstance(item, dict | list):
            yield from places(item, (*path, key))


@st.composite
def spoilt(draw: st.DrawFn) -> Any:
    """A right recipe with one to three things in it replaced, removed, renamed or doubled."""
    recipe = copy.deepcopy(draw(recipes() | chains()))
    for _ in range(draw(st.integers(1, 3))):
        there = list(places(recipe))
        if not there:
            break
        *way, last = draw(st.sampled_from(there))
        parent = recipe
        for key in way:
            parent = parent[key]
        action = draw(st.sampled_from(["replace", "remove", "rename", "double"]))
        if action == "replace":
            parent[last] = copy.deepcopy(draw(st.sampled_from(NONSENSE)))
        elif action == "remove":
            del parent[last]
        elif isinstance(parent, dict):
            new = last[:-1] if action == "rename" else f"{last}s"
            parent[new] = copy.deepcopy(parent[last])
            if action == "rename":
                parent.pop(last)
        else:
            parent.append(copy.deepcopy(parent[last]))
    return recipe


@pytest.mark.slow
@settings(quickly, max_examples=120)
@given(recipe=spoilt())
def test_a_wrong_recipe_says_where_and_why(
    recipe: dict[str, Any], zoo: dict[str, SourceCheckpoint]
) -> None:
    problem = refusal(recipe, zoo)
    if problem is not None:
        assert problem.where
        assert problem.what


def refusal(recipe: dict[str, Any], zoo: dict[str, SourceCheckpoint]) -> MergeflowError | None:
    """Why a recipe cannot be merged; an error of another kind is a bug."""
    try:
        parsed = parse_recipe(recipe, where="my.yaml")
    except RecipeError as error:
        return error
    sources = zoo | {name: zoo["a"] for name in parsed.references() if name not in zoo}
    try:
        make_plan(parsed, sources)
    except (RecipeError, CompatibilityError) as error:
        return error
    return None


@quickly
@given(recipe=spoilt())
def test_what_is_wrong_in_a_mapping_is_wrong_in_a_file(recipe: dict[str, Any]) -> None:
    def outcome(value: Any) -> str:
        try:
            return parse_recipe(value).digest
        except RecipeError as error:
            return error.what

    assert outcome(dump_yaml([recipe])) == outcome(recipe)
