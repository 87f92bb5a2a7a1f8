"""Mends of recipes: the edit that each advises, and the plan that is made then."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.support.followed_mends import Advice, Shell

pytestmark = pytest.mark.slow  # `make field`

MODELS = "models: [{model: ./a}, {model: ./b}]"
LINEAR = f"merge_method: linear\n{MODELS}\n"
SLERP = f"merge_method: slerp\nbase_model: ./a\n{MODELS}\n"
FISHER = f"merge_method: fisher\n{MODELS}\n"
DATA = "calibration: {data: x.jsonl}\n"
WEIGHED = """models:
- {model: ./a, parameters: {weight: 0.5}}
- {model: ./b, parameters: {weight: 0.5}}"""
TWO_FISHERS = f"name: x\n{FISHER}calibration: {{data: x.jsonl, samples: 2}}\n---\nname: y\n{FISHER}"
MEAN_OF_TWO = "---\nmerge_method: linear\nmodels: [{model: x}, {model: y}]"

EDITS: dict[str, tuple[str, str]] = {
    "base-of-several": (
        f"merge_method: passthrough\n{MODELS}".replace("passthrough", "slerp")
        + "\nparameters: {t: 0.5}",
        "merge_method: slerp\nbase_model: ./a\n" + MODELS + "\nparameters: {t: 0.5}",
    ),
    "later-recipe": (
        "name: x\nmerge_method: linear\nmodels: [{model: y}, {model: ./a}]\n---\n"
        "name: y\nmerge_method: linear\nmodels: [{model: x}, {model: ./b}]",
        "name: x\nmerge_method: linear\nmodels: [{model: ./b}, {model: ./a}]\n---\n"
        "name: y\nmerge_method: linear\nmodels: [{model: x}, {model: ./b}]",
    ),
    "unused-recipe": (
        f"name: x\nmerge_method: linear\n{MODELS}\n---\nmerge_method: linear\n{MODELS}",
        f"name: x\nmerge_method: linear\n{MODELS}\n---\nmerge_method: linear\n"
        "models: [{model: x}, {model: ./b}]",
    ),
    "no-model-beside-the-base": (
        "merge_method: task_arithmetic\nbase_model: ./base\nmodels: []",
        f"merge_method: task_arithmetic\nbase_model: ./base\n{WEIGHED}",
    ),
    "listed-twice": (
        "merge_method: linear\nmodels:\n- {model: ./a, parameters: {weight: 1}}\n"
        "- {model: ./a, parameters: {weight: 2}}\n- {model: ./b, parameters: {weight: 1}}",
        "merge_method: linear\nmodels:\n- {model: ./a, parameters: {weight: 3}}\n"
        "- {model: ./b, parameters: {weight: 1}}",
    ),
    "layer-range": (
        "merge_method: passthrough\nslices:\n- sources: [{model: ./a, layer_range: [2, 2]}]",
        "merge_method: passthrough\nslices:\n- sources: [{model: ./a, layer_range: [0, 4]}]",
    ),
    "method-parameter": (
        f"{SLERP}parameters: {{t: [{{filter: mlp, value: 0.5}}]}}",
        f"{SLERP}parameters: {{t: [{{filter: mlp, value: 0.5}}, {{value: 0.3}}]}}",
    ),
    "model-parameter": (
        f"merge_method: task_arithmetic\nbase_model: ./base\n{MODELS}",
        f"merge_method: task_arithmetic\nbase_model: ./base\n{MODELS}\nparameters: {{weight: 0.5}}",
    ),
    "adapter-on-a-recipe": (
        f"name: x\nmerge_method: linear\n{MODELS}\n---\nmerge_method: linear\n"
        "models: [{model: x+./adapter}, {model: ./b}]",
        f"name: x\nmerge_method: linear\n{MODELS}\n---\nmerge_method: linear\n"
        "models: [{model: x}, {model: ./b}]",
    ),
    "two-tokenizers": (
        f"{LINEAR}tokenizer_source: base\ntokenizer: {{source: ./a}}",
        f"{LINEAR}tokenizer: {{source: ./a}}",
    ),
    "tokenizer-of-a-stranger": (
        f"{LINEAR}tokenizer_source: ./c",
        f"{LINEAR}tokenizer_source: ./a",
    ),
    "token-of-a-stranger": (
        f"{LINEAR}tokenizer: {{tokens: {{'<x>': {{source: ./c}}}}}}",
        f"{LINEAR}tokenizer: {{source: ./a}}",
    ),
    "tokenizer-of-an-earlier-one": (
        f"name: x\nmerge_method: linear\n{MODELS}\ntokenizer_source: union\n---\n"
        "merge_method: linear\nmodels: [{model: x}, {model: ./b}]",
        f"name: x\nmerge_method: linear\n{MODELS}\n---\n"
        "merge_method: linear\nmodels: [{model: x}, {model: ./b}]\ntokenizer_source: union",
    ),
    "negative-weights": (
        "merge_method: linear\nmodels: [{model: ./a, parameters: {weight: -1}}, {model: ./b,"
        " parameters: {weight: 2}}]\nparameters: {allow_negative_weights: false}",
        "merge_method: linear\nmodels: [{model: ./a, parameters: {weight: -1}}, {model: ./b,"
        " parameters: {weight: 2}}]",
    ),
    "set-at-one-model": (
        "merge_method: linear\nmodels: [{model: ./a, parameters: {normalize: false, weight: 1}},"
        " {model: ./b, parameters: {weight: 1}}]",
        "merge_method: linear\nmodels: [{model: ./a, parameters: {weight: 1}},"
        " {model: ./b, parameters: {weight: 1}}]\nparameters: {normalize: false}",
    ),
    "a-model-that-is-not-listed": (
        f"{LINEAR}parameters: {{weight: {{./c: 1}}}}",
        "merge_method: linear\nmodels: [{model: ./a, parameters: {weight: 1}}, {model: ./b,"
        " parameters: {weight: 1}}, {model: ./base, parameters: {weight: 1}}]",
    ),
    "one-value-for-each-model": (
        f"{LINEAR}parameters: {{weight: {{./a: 1, ./b: 2}}}}",
        "merge_method: linear\nmodels: [{model: ./a, parameters: {weight: 1}}, {model: ./b,"
        " parameters: {weight: 2}}]",
    ),
    "no-value-for-a-tensor": (
        f"merge_method: task_arithmetic\nbase_model: ./base\n{MODELS}\n"
        "parameters: {weight: [{regex: 'mlp|x', value: 1}, {filter: q_proj, value: 1}]}",
        f"merge_method: task_arithmetic\nbase_model: ./base\n{MODELS}\nparameters: {{weight: 1}}",
    ),
    "two-filters": (
        f"{LINEAR}exclude: [{{filter: mlp, glob: '*up*'}}]",
        f"{LINEAR}exclude: [{{regex: 'mlp.*up'}}]",
    ),
    "a-pattern-for-ever": (
        f"{LINEAR}exclude: [{{regex: '(a+)+b'}}]",
        f"{LINEAR}exclude: [{{regex: 'a+b'}}, {{filter: up_proj}}]",
    ),
    "no-regex": (
        f"{LINEAR}exclude: [{{regex: '*up*'}}]",
        f"{LINEAR}exclude: [{{glob: '*up*'}}]",
    ),
    "no-group": (
        f"{LINEAR}exclude: [{{group: norm}}]",
        f"{LINEAR}exclude: [{{group: norms}}]",
    ),
    "calibration-without-use": (
        f"{LINEAR}{DATA}",
        f"merge_method: linear\n{MODELS}",
    ),
    "calibration-of-a-recipe": (
        f"name: x\nmerge_method: linear\n{MODELS}\n---\nmerge_method: fisher\n"
        "models: [{model: x}, {model: ./b}]\ncalibration: {data: x.jsonl}",
        f"{FISHER}{DATA}",
    ),
    "no-calibration": (
        f"merge_method: fisher\n{MODELS}",
        f"{FISHER}{DATA}",
    ),
    "fisher-and-tokens": (
        f"{FISHER}calibration: {{data: x.jsonl}}\ntokenizer_source: union",
        f"{FISHER}{DATA}",
    ),
    "two-calibrations": (
        TWO_FISHERS + "calibration: {data: x.jsonl, samples: 3}\n" + MEAN_OF_TWO,
        TWO_FISHERS + "calibration: {data: x.jsonl, samples: 2}\n" + MEAN_OF_TWO,
    ),
    "weights-that-cancel": (
        "merge_method: linear\nmodels: [{model: ./a, parameters: {weight: 1}}, {model: ./b,"
        " parameters: {weight: -1}}]",
        "merge_method: linear\nmodels: [{model: ./a, parameters: {weight: 1}}, {model: ./b,"
        " parameters: {weight: -1}}]\nparameters: {normalize: false}",
    ),
    "fisher-weights": (
        f"{FISHER}parameters: {{weight: 0}}\n{DATA}",
        "merge_method: fisher\nmodels: [{model: ./a, parameters: {weight: 1}}, {model: ./b,"
        " parameters: {weight: 0}}]\ncalibration: {data: x.jsonl}",
    ),
    "epsilon": (
        f"merge_method: della\nbase_model: ./base\n{MODELS}\n"
        "parameters: {weight: 1, density: 0.9, epsilon: 0.4}",
        f"merge_method: della\nbase_model: ./base\n{MODELS}\n"
        "parameters: {weight: 1, density: 0.9, epsilon: 0.05}",
    ),
    "sphere-weights": (
        "merge_method: multislerp\nmodels: [{model: ./a, parameters: {weight: 1}}, {model: ./b,"
        " parameters: {weight: -1}}]",
        "merge_method: multislerp\nmodels: [{model: ./a, parameters: {weight: 1}}, {model: ./b,"
        " parameters: {weight: -1}}]\nparameters: {normalize_weights: false}",
    ),
    "whole-model-density": (
        f"merge_method: ties\nbase_model: ./base\n{MODELS}\nparameters:\n  weight: 1\n"
        "  density: [{filter: mlp, value: 0.5}, {value: 0.3}]\n  scope: global",
        f"merge_method: ties\nbase_model: ./base\n{MODELS}\n"
        "parameters: {weight: 1, density: 0.5, scope: global}",
    ),
    "modules-that-are-not-there": (
        "merge_method: linear\nmodules:\n  vision: {models: [{model: ./a}, {model: ./b}]}",
        "merge_method: linear\nmodules:\n  layers: {models: [{model: ./a}, {model: ./b}]}\n"
        "  default: {models: [{model: ./a}, {model: ./b}]}",
    ),
}


@pytest.mark.parametrize("case", EDITS)
def test_edited_recipe(
    case: str, here: Path, mergeflow: Shell, advice: Advice, tmp_path: Path
) -> None:
    before, after = EDITS[case]
    (here / "x.jsonl").write_text('{"text": "one"}\n' * 4)
    recipe = here / "recipe.yaml"
    recipe.write_text(before)
    list(yaml.safe_load_all(before))
    advice.refused(mergeflow, "plan", recipe)
    recipe.write_text(after)
    advice.helped(mergeflow, "plan", recipe)
