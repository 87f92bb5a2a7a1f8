"""Configs, tokenizers and adapters that an attacker wrote, and recipes that hold YAML's traps."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from flows.settings.pipeline import load_pipeline
from merge_core.checkpoints.adapters import open_adapter
from merge_core.checkpoints.checkpoint import open_checkpoint
from merge_core.errors import CheckpointError, RecipeError
from merge_core.recipes.loading import load_recipe, parse_recipe
from merge_core.tokenizers.prompting import read_prompting
from merge_core.tokenizers.tokenizer import read_tokenizer
from tasks.evaluation.suite import load_suite
from tests.support.adapters import random_factors, write_adapter
from tests.support.hostile_files import put, sound
from tests.support.tiny_llama import tokenizer_json

DEEP = '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"
TEXTS = {
    "JSON 100 000 deep": (DEEP, "nested too deeply"),
    "JSON 65 deep": ('{"a":' + "[" * 65 + "]" * 65 + "}", "not a plain JSON object"),
    "a number of 5 000 digits": ('{"a":' + "9" * 5000 + "}", "is not JSON"),
    "half a surrogate pair": ('{"a":"\\ud800"}', "is not JSON"),
    "a list": ("[]", "not a plain JSON object"),
    "not UTF-8": (b'{"a":"\xff"}', "is not JSON"),
    "a pickle": (b"\x80\x04K\x01.", "is not JSON"),
}


@pytest.mark.parametrize("attack", TEXTS)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "adapter_config.json"])
def test_json_is_refused_for(name: str, attack: str, tmp_path: Path) -> None:
    content, message = TEXTS[attack]
    put(tmp_path, model__safetensors=sound("a"), adapter_model__safetensors=sound("a"))
    put(tmp_path, **{name: content})
    read: Any = {
        "config.json": open_checkpoint,
        "tokenizer.json": read_tokenizer,
        "adapter_config.json": open_adapter,
    }[name]
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path)


def test_infinity_in_a_config_is_read_since_honest_configs_hold_it(tmp_path: Path) -> None:
    put(tmp_path, model__safetensors=sound("a"), config__json='{"time_step_limit":[0.0,Infinity]}')
    assert open_checkpoint(tmp_path).config["time_step_limit"] == [0.0, float("inf")]


def _tokenizer(**model: Any) -> dict[str, Any]:
    content = tokenizer_json()
    return content | {"model": content["model"] | model}


TOKENIZERS: dict[str, tuple[Any, str]] = {
    "no model": ({"model": 7}, "has no model"),
    "an id of 4 000 digits": (_tokenizer(vocab={"a": 10**3999}), "does not map tokens to ids"),
    "a negative id": (_tokenizer(vocab={"a": -1}), "does not map tokens to ids"),
    "a fractional id": (_tokenizer(vocab={"a": 1.0}), "does not map tokens to ids"),
    "a boolean id": (_tokenizer(vocab={"a": True}), "does not map tokens to ids"),
    "a score of 400 digits": (_tokenizer(vocab=[["a", 10**400]]), "unusable score"),
    "a score NaN": (_tokenizer(vocab=[["a", float("nan")]]), "not a finite number"),
    "a score infinity": (_tokenizer(vocab=[["a", 1e999]]), "not a finite number"),
    "a piece that is a list": (_tokenizer(vocab=[[[], 1.0]]), "unusable score"),
    "a piece without a score": (_tokenizer(vocab=[["a"]]), "unusable score"),
    "merges that are a number": (_tokenizer(merges=7), "merges that are not a list"),
    "a merge of one": (_tokenizer(merges=["a"]), "unusable merge"),
    "added tokens that are a number": (tokenizer_json() | {"added_tokens": 7}, "added_tokens"),
    "an added token without a text": (tokenizer_json() | {"added_tokens": [{}]}, "added_tokens"),
    "NaN in a step": (tokenizer_json() | {"normalizer": float("nan")}, "not a finite number"),
}


@pytest.mark.parametrize("attack", TOKENIZERS)
def test_a_tokenizer_is_refused_for(attack: str, tmp_path: Path) -> None:
    content, message = TOKENIZERS[attack]
    put(tmp_path, tokenizer__json=content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_tokenizer(tmp_path)
    assert len(str(caught.value)) < 1000


def test_chat_templates_under_names_that_are_no_texts_are_passed_over(tmp_path: Path) -> None:
    templates = [{"name": ["default"], "template": "x"}, {"name": "default", "template": "{{ y }}"}]
    put(tmp_path, tokenizer_config__json={"chat_template": templates})
    assert read_prompting(tmp_path, {}).chat_template == "{{ y }}"


ADAPTERS: dict[str, tuple[dict[str, Any], str]] = {
    "an alpha of 400 digits": ({"lora_alpha": 10**400}, "must be a finite number"),
    "an alpha NaN": ({"lora_alpha": float("nan")}, "must be a finite number"),
    "a rank of 0": ({"r": 0}, "must be a whole number"),
    "a rank of 2^40": ({"r": 2**40}, "must be a whole number"),
    "patterns that double with every group": (
        {"rank_pattern": {"(a|a)" * 60: 2}},
        "simple patterns",
    ),
    "patterns that double with every question mark": (
        {"rank_pattern": {"a?" * 100 + "a" * 100: 2}},
        "simple patterns",
    ),
    "patterns that repeat a group": ({"alpha_pattern": {"(a+)+$": 2}}, "simple patterns"),
    "patterns with many stars": ({"alpha_pattern": {".*.*.*.*.*.*x": 2}}, "simple patterns"),
    "patterns that are no expression": ({"rank_pattern": {"(?P<": 2}}, "expressions|simple"),
    "another kind of adapter": ({"peft_type": "\x1b[2J"}, "only LORA adapters"),
}


@pytest.mark.parametrize("attack", ADAPTERS)
def test_an_adapter_is_refused_for(attack: str, tmp_path: Path) -> None:
    settings, message = ADAPTERS[attack]
    adapter = write_adapter(tmp_path / "a", random_factors({"q": (4, 4)}, 2), **settings)
    began = time.thread_time()
    with pytest.raises(CheckpointError, match=message) as caught:
        open_adapter(adapter)
    assert time.thread_time() - began < 2
    assert str(caught.value).replace("\n", "").isprintable()


def test_patterns_that_only_long_names_make_slow_are_refused(tmp_path: Path) -> None:
    factors = random_factors({f"{i}{'.a' * 240}": (4, 4) for i in range(8)}, 2)
    adapter = write_adapter(tmp_path / "a", factors, rank_pattern={".*.*.*x": 2})
    began = time.thread_time()
    with pytest.raises(CheckpointError, match="quick to match"):
        open_adapter(adapter)
    assert time.thread_time() - began < 2


def test_patterns_that_peft_users_write_are_read(tmp_path: Path) -> None:
    modules = {f"model.layers.{i}.mlp.up_proj": (4, 4) for i in range(80)}
    patterns = {"q_proj": 8, r"^model\.layers\.(\d+)\..*(up|down)_proj": 2, "layers.(1|2|3).x": 4}
    adapter = write_adapter(tmp_path / "a", random_factors(modules, 2), rank_pattern=patterns)
    assert len(open_adapter(adapter).pairs) == 80


RECIPE = "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}]\n"
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 12)
)
YAML = {
    "aliases that multiply": (BOMB, "over 100,000 values"),
    "merge keys that multiply": (MERGE_BOMB, "over 100,000 values"),
    "a list in itself": ("a: &a [*a]", "over 100,000 values"),
    "a mapping in itself": ("a: &a {b: *a}", "over 100,000 values"),
    "100 000 nested lists": ("[" * 100_000, "nested too deeply"),
    "10 000 nested mappings": ("a: {" * 10_000, "nested too deeply|not valid YAML"),
    "10 000 lists line by line": ("- " * 10_000, "nested too deeply"),
    "a python object": ("a: !!python/object:os.system {}", "could not determine a constructor"),
    "a python call": (
        "a: !!python/object/apply:os.system ['touch pwned']",
        "could not determine a constructor",
    ),
    "a python name": ("a: !!python/name:os.system", "could not determine a constructor"),
    "a python module": ("a: !!python/module:os", "could not determine a constructor"),
    "a python object as a key": ("? !!python/object:os.system {}\n: 1", "constructor"),
    "a tag of its own": ("a: !own 1", "could not determine a constructor"),
    "a hexadecimal number of 6 000 digits": ("a: 0x" + "F" * 6000, "too many digits"),
    "a decimal number of 6 000 digits": ("a: " + "9" * 6000, "too many digits"),
    "a number to base 60 of 100 000 digits": ("a: 1" + ":1" * 50_000, "too many digits"),
    "an empty number": ("a: !!int ''", "cannot read"),
    "a truth that is none": ("a: !!bool x", "cannot read"),
    "a date that is none": ("a: !!timestamp x", "cannot read"),
    "the 45th of a 13th month": ("a: 2024-13-45", "cannot read"),
    "half a surrogate pair": ('a: "\\ud800"', "half a surrogate pair"),
    "a key twice": ("a: 1\na: 2", "given twice"),
    "a NUL byte": ("a: \0", "not valid YAML"),
    "more than 1 MiB": ("a: " + "x" * (1 << 20), "larger than 1 MiB"),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("attack", YAML)
@pytest.mark.parametrize("kind", ["recipe", "pipeline", "suite"])
def test_yaml_is_refused_for(
    kind: str, attack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content, message = YAML[attack]
    path = tmp_path / f"{kind}.yaml"
    path.write_text(content)
    load: Any = {"recipe": load_recipe, "pipeline": load_pipeline, "suite": load_suite}[kind]
    began = time.thread_time()
    with pytest.raises(RecipeError, match=message) as caught:
        load(path)
    assert time.thread_time() - began < 2
    assert len(str(caught.value)) < 1000
    assert not (tmp_path / "pwned").exists()


def test_aliases_and_merge_keys_of_honest_recipes_are_read() -> None:
    recipe = parse_recipe(
        "merge_method: linear\n"
        "models:\n"
        "  - {model: a, parameters: &half {weight: 0.5}}\n"
        "  - {model: b, parameters: {<<: *half}}\n"
    )
    assert [entry.parameters for entry in recipe.models] == [{"weight": 0.5}, {"weight": 0.5}]


@pytest.mark.parametrize(
    "regex", ["(a+)+$", "(a|a)" * 50, "a?" * 60 + "a" * 60, ".*" * 10 + "x", "(.*)*"]
)
def test_a_filter_that_can_take_for_ever_is_refused(regex: str) -> None:
    weight = [{"regex": regex, "value": 1}, {"value": 0}]
    models = [{"model": "a", "parameters": {"weight": weight}}]
    began = time.thread_time()
    with pytest.raises(RecipeError, match="take for ever"):
        parse_recipe({"merge_method": "linear", "models": models})
    assert time.thread_time() - began < 1


def test_keys_with_terminal_escapes_are_shown_without_them(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE + json.dumps("\x1b]0;owned\x07") + ": 1\n")
    with pytest.raises(RecipeError, match="unknown key") as caught:
        load_recipe(path)
    assert str(caught.value).replace("\n", "").isprintable()
