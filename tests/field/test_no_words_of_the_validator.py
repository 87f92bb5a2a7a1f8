"""Whatever is wrong in a file, its message is ours: none has a phrase of the validating library."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError
from pydantic_core import core_schema

from flows.settings.averaging import Averaging, load_averaging
from flows.settings.merge_form import MergeForm
from flows.settings.pipeline import Pipeline, load_pipeline
from flows.stack.config import StackConfig, read_stack_config
from merge_core.errors import MergeflowError
from merge_core.files.rule_words import PATTERNS, rule_in_words
from merge_core.files.strict_yaml import validated
from merge_core.homes.home import Home
from merge_core.recipes.loading import load_recipe
from tasks.evaluation.suite import Suite, load_suite
from tasks.promotion.rule import PromotionRule

PHRASES = (
    *("Input should be", "Field required", "Extra inputs", "String should", "value_error"),
    *("Value error,", "validation error", "errors.pydantic.dev", "type=", "input_value"),
    *("List should", "Tuple should", "Unable to parse", "Assertion failed", "valid dictionary"),
    *("^[", ".+", "0-9"),  # a pattern is no sentence
)
WRONG = (
    *("nonsense", "", -7, 0.5, 1e30, True, None, [], ["nonsense"], [1], {}, {"nonsense": 1}),
    *([{}], [[1]], float("nan"), "x" * 400, "a/b:c"),
)
RECIPE = {
    "merge_method": "ties",
    "base_model": "base",
    "models": [{"model": "one", "parameters": {"weight": 0.5, "density": [0.1, 0.5]}}],
    "parameters": {"weight": [{"filter": "mlp", "value": 0.5}, {"value": 1}]},
    "out_dtype": "bfloat16",
    "exclude": ["norm"],
    "tokenizer_source": "union",
    "chat_template": "auto",
    "seed": 3,
}
SLICES = {
    "merge_method": "passthrough",
    "slices": [{"sources": [{"model": "one", "layer_range": [0, 2]}]}],
    "modules": {"visual": {"models": [{"model": "one"}]}},
    "tokenizer": {"source": "union", "pad_to_multiple_of": 8, "tokens": {"a": {"source": "one"}}},
}
PIPELINE = {
    "name": "nightly",
    "description": "words",
    "recipe": RECIPE,
    "evaluate": {"suite": "english-small", "device": "auto", "parallel": 2, "experts": True},
    "promote": {
        "max_regression": 0.01,
        "min_gain": 0.0,
        "per_task": {"arc_easy": 0.1},
        "approve_within": "8h",
        "fall_back_to": "base",
    },
    "register": {"model": "name"},
    "execution": {"device": "cpu", "threads": 2},
}
AVERAGE = {
    "name": "nightly",
    "training": {"run": "runs", "pattern": "checkpoint-*", "marker": "done"},
    "choose": {"last": 3, "every": 2, "from_step": 1, "to_step": 9},
    "average": {"schedule": "ema", "beta": 0.5, "decay": "1-sqrt"},
    "evaluate": {"suite": "english-small"},
    "promote": {"baseline": "latest", "max_regression": 0.01},
    "register": {"model": "name"},
    "retention": {"keep": 3},
}
SUITE = {
    "name": "mine",
    "description": "words",
    "tasks": [{"task": "arc_easy", "metric": "acc", "higher_is_better": True}],
    "settings": {"batch_size": 4, "num_fewshot": 0, "limit": 10},
    "timeout_minutes": 5,
}
STACK = {
    "prefect_database": "postgresql://u@h:1/a",
    "mlflow_database": "postgresql://u@h:1/b",
    "redis": "redis://h:1/0",
    "workers": 2,
    "store": {"group": "staff"},
    "allowed_hosts": ["here.example"],
}
FORM = {
    "method": "ties",
    "base": "base",
    "models": [{"model": "one", "weight": 0.5, "density": 0.5}],
}


def at_file(read: Callable[[Path], object]) -> Callable[[Path, Any], object]:
    def written(directory: Path, value: Any) -> object:
        path = directory / "file.yaml"
        path.write_text(json.dumps(value).replace("NaN", ".nan"))
        return read(path)

    return written


def stack(directory: Path, value: Any) -> object:
    home = Home(directory / "stack-home")
    home.path.mkdir(exist_ok=True, mode=0o700)
    (home.path / "stack.yaml").write_text(json.dumps(value).replace("NaN", ".nan"))
    return read_stack_config(home)


def form(directory: Path, value: Any) -> object:
    return validated(MergeForm, value, "form").read(Home(directory))


READERS: dict[str, tuple[Callable[[Path, Any], object], dict[str, Any]]] = {
    "recipe": (at_file(load_recipe), RECIPE),
    "recipe of slices": (at_file(load_recipe), SLICES),
    "pipeline": (at_file(load_pipeline), PIPELINE),
    "average": (at_file(load_averaging), AVERAGE),
    "suite": (at_file(load_suite), SUITE),
    "stack.yaml": (stack, STACK),
    "form": (form, FORM),
}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value in nested mappings and lists, the whole first."""
    yield path
    items = value.items() if isinstance(value, dict) else []
    items = enumerate(value) if isinstance(value, list) else items
    for key, inner in items:
        yield from places(inner, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], wrong: Any) -> Any:
    if not path:
        return wrong
    whole = copy.deepcopy(value)
    holder = whole
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = wrong
    return whole


def told(read: Callable[[Path, Any], object], directory: Path, value: Any) -> str | None:
    try:
        read(directory, value)
    except MergeflowError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", READERS)
def test_wrong_values_at_every_place_are_refused_in_our_words(name: str, tmp_path: Path) -> None:
    read, right = READERS[name]
    refused = 0
    for index, path in enumerate(places(right)):
        # Seven of them at each place, others at the next, so that each meets every kind of field.
        chosen = [WRONG[(7 * index + step) % len(WRONG)] for step in range(7)]
        for wrong in (*chosen, ...):
            value = replaced(right, path, wrong if wrong is not ... else None)
            if wrong is ... and path and isinstance(path[-1], str):
                value = replaced(right, (*path[:-1], f"{path[-1]}x"), 1)
            said = told(read, tmp_path, value)
            refused += said is not None
            found = [phrase for phrase in PHRASES if phrase in (said or "")]
            assert not found, f"{path} = {wrong!r}: {said}"
    assert refused > 30


@pytest.mark.parametrize("kind", get_args(core_schema.ErrorType))
def test_each_kind_of_error_of_the_library_has_a_sentence_of_ours(kind: str) -> None:
    context = dict.fromkeys(
        ("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "pattern", "error"), 3
    )
    item = {"type": kind, "input": "given", "ctx": context | {"expected": "'a' or 'b'"}}
    said = rule_in_words(item | {"msg": "Input should be a pydantic sentence", "loc": ()})
    assert said
    assert not any(phrase in said for phrase in (*PHRASES, "pydantic"))


def test_a_text_that_may_be_a_secret_is_not_repeated() -> None:
    assert "hunter2" not in rule_in_words({"type": "int_parsing", "input": "hunter2", "ctx": {}})


def test_the_models_themselves_never_raise_the_librarys_error_through_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.cli import program

    monkeypatch.chdir(tmp_path)
    Path("p.yaml").write_text(json.dumps(replaced(PIPELINE, ("evaluate", "parallel"), "many")))
    assert program.run(["run", "p.yaml"]) == 2
    said = capsys.readouterr().err
    assert "evaluate.parallel: this must be a whole number, not a text" in said
    assert not issubclass(MergeflowError, ValidationError)


def test_every_pattern_of_a_field_has_words(tmp_path: Path) -> None:
    models = (Pipeline, Averaging, Suite, PromotionRule, StackConfig)
    schemas = json.dumps([model.model_json_schema() for model in models])
    patterns = {json.loads(f'"{text}"') for text in re.findall(r'"pattern": "(.*?)"[,}]', schemas)}
    assert len(patterns) >= 3
    assert patterns <= set(PATTERNS), patterns - set(PATTERNS)
    for pattern in patterns:
        item = {"type": "string_pattern_mismatch", "input": "?", "ctx": {"pattern": pattern}}
        assert rule_in_words(item) == f"'?' cannot be written here: {PATTERNS[pattern]} is wanted"
