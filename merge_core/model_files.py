"""The files beside the weights: config, tokenizer, generation config, model card, recipe.

All deterministic: no dates, no absolute paths beyond those that the user's recipe names.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from merge_core.checkpoint import read_json
from merge_core.expansion import output_layers
from merge_core.plan import Plan
from merge_core.records import SourceCheckpoint

RECIPE_NAME = "mergeflow_recipe.yaml"

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "chat_template.jinja",
    "chat_template.json",
)
_LAYER_COUNT_KEYS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_DTYPE_KEYS = ("dtype", "torch_dtype")


def write_model_files(plan: Plan, sources: Mapping[str, SourceCheckpoint], directory: Path) -> None:
    """Complete a directory of weights to a checkpoint that transformers loads."""
    donor = sources[plan.recipe.donor].directory
    _write_config(plan, sources, directory)
    _copy(donor, directory, ("generation_config.json",))
    _copy(sources[plan.recipe.tokenizer_donor].directory, directory, _TOKENIZER_FILES)
    (directory / RECIPE_NAME).write_text(recipe_yaml(plan), "utf-8")
    (directory / "README.md").write_text(model_card(plan), "utf-8")


def recipe_yaml(plan: Plan) -> str:
    """The recipe as YAML that `mergeflow merge` and mergekit read."""
    content = plan.recipe.model_dump(exclude_defaults=True, exclude={"name"})
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def model_card(plan: Plan) -> str:
    """README.md with the Hub's front matter: what was merged, how, and from which bytes."""
    recipe = plan.recipe
    header = yaml.safe_dump(
        {
            "base_model": recipe.references(),
            "base_model_relation": "merge",
            "library_name": "transformers",
            "tags": ["merge", "mergeflow", recipe.merge_method],
        },
        sort_keys=False,
        allow_unicode=True,
    )
    rows = "\n".join(
        f"| {entry.reference} | {entry.role} | `{entry.digest}` |" for entry in plan.inputs
    )
    method = recipe.method
    return f"""---
{header}---
# A {recipe.merge_method} merge

Made with mergeflow by **{recipe.merge_method}**: {method.summary}. Method: {method.paper}.

## Ingredients

| checkpoint | role | sha256 of its model files |
|---|---|---|
{rows}

## Recipe

```yaml
{recipe_yaml(plan)}```

Check the files with `sha256sum -c SHA256SUMS`.
"""


def _write_config(plan: Plan, sources: Mapping[str, SourceCheckpoint], directory: Path) -> None:
    source = sources[plan.recipe.donor].directory / "config.json"
    if not source.exists():
        return
    original = read_json(source)
    config: dict[str, Any] = json.loads(json.dumps(original))
    config |= dict.fromkeys([key for key in _DTYPE_KEYS if key in config] or ["dtype"], plan.dtype)
    if plan.recipe.slices:
        _restack(config, plan, sources)
    if config == original:
        shutil.copyfile(source, directory / "config.json")
    else:
        (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def _restack(config: dict[str, Any], plan: Plan, sources: Mapping[str, SourceCheckpoint]) -> None:
    """Give the config the number of layers of the result, and each layer its source's settings.

    A list with one item for each layer (transformers' `layer_types`) is stacked as the layers are.
    """
    layers = output_layers(plan.recipe)
    configs = {
        reference: read_json(sources[reference].directory / "config.json")
        for reference, _ in layers
    }
    for path in ((), ("text_config",)):
        section = _at(config, path)
        count_key = next((key for key in _LAYER_COUNT_KEYS if key in section), None)
        if count_key is None:
            continue
        before = section[count_key]
        for key, value in section.items():
            if isinstance(value, list) and len(value) == before > 1:
                section[key] = [
                    _at(configs[reference], path).get(key, value)[layer]
                    for reference, layer in layers
                ]
        section[count_key] = len(layers)
        return


def _at(config: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    section: Any = config
    for key in path:
        section = section.get(key, {})
    return section if isinstance(section, dict) else {}


def _copy(source: Path, directory: Path, names: tuple[str, ...]) -> None:
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, directory / name)
