"""The files beside the weights: config, tokenizer, generation config, model card, recipe.

All deterministic: no dates, no absolute paths beyond those that the user's recipe names.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

import yaml

from merge_core.checkpoints.companion_files import (
    code_names,
    companion_names,
    copy_files,
    left_behind,
)
from merge_core.files.bounded_json import read_json
from merge_core.files.names import GENERATION_NAME, MODULES_NAME, TOKENIZER_FILES
from merge_core.planning.model_config import DIFFUSERS_KEY, config_text, merged_config
from merge_core.planning.plan import Plan
from merge_core.records import SourceCheckpoint, TakenOver
from merge_core.text.markdown import block, code, inline
from merge_core.text.plain import plain
from merge_core.tokenizers.chat_template_files import chat_template_for, write_chat_template

RECIPE_NAME = "mergeflow_recipe.yaml"


def write_model_files(
    plan: Plan, sources: Mapping[str, SourceCheckpoint], directory: Path
) -> TakenOver:
    """Complete a directory of weights to a checkpoint that its library loads.

    Raises:
        CheckpointError: a file to copy is a link out of its checkpoint's directory.
    """
    donor = sources[plan.recipe.donor].directory
    _write_config(plan, sources, directory)
    _write_generation_config(plan, donor, directory)
    _write_tokenizer(plan, sources, directory)
    copied = copy_files(donor, directory, companion_names(donor))
    code = code_names(donor)
    if plan.copy_code:
        copied += copy_files(donor, directory, code)
    (directory / RECIPE_NAME).write_text(recipe_yaml(plan), "utf-8")
    (directory / "README.md").write_text(model_card(plan, sources, _library(directory)), "utf-8")
    left = left_behind(donor, copied)
    return TakenOver(
        copied=tuple(sorted(copied)),
        left_behind=left,
        code_left_behind=tuple(name for name in code if name in left),
    )


def recipe_yaml(plan: Plan) -> str:
    """The recipe as YAML that `mergeflow merge` and mergekit read."""
    return plan.recipe.to_yaml()


def card(template: Path, front_matter: Mapping[str, object], **values: object) -> str:
    """A README.md: the Hub's front matter, and a template that is a file. Values are Markdown."""
    header = yaml.safe_dump(front_matter, sort_keys=False, allow_unicode=True)
    return Template(template.read_text("utf-8")).substitute(values, header=header)


def model_card(
    plan: Plan, sources: Mapping[str, SourceCheckpoint], library: str = "transformers"
) -> str:
    """README.md with the Hub's front matter: what was merged, how, and from which bytes."""
    recipe = plan.recipe
    rows = (
        f"| {inline(entry.reference)} | {inline(entry.role)} | {code(entry.digest)} |"
        for entry in plan.inputs
    )
    return card(
        Path(__file__).with_name("model_card.md"),
        {
            "base_model": _models_of(recipe.references(), sources),
            "base_model_relation": "merge",
            "library_name": library,
            "tags": ["merge", "mergeflow", recipe.merge_method],
        },
        method=recipe.merge_method,
        summary=recipe.method.summary,
        paper=recipe.method.paper,
        rows="\n".join(rows),
        recipe=block(recipe_yaml(plan), "yaml"),
    )


def _models_of(references: Sequence[str], sources: Mapping[str, SourceCheckpoint]) -> list[str]:
    """References as the Hub knows them: a base with an adapter is two models."""
    names: list[str] = []
    for reference in references:
        adapter = sources[reference].adapter
        if adapter is None:
            names.append(reference)
        else:
            names += [reference.removesuffix(f"+{adapter.reference}"), adapter.reference]
    return list(dict.fromkeys(map(plain, names)))


def _write_config(plan: Plan, sources: Mapping[str, SourceCheckpoint], directory: Path) -> None:
    """config.json: byte for byte the donor's when nothing in it changes."""
    path = sources[plan.recipe.donor].directory / "config.json"
    config = merged_config(plan.config, plan.dtype, stored=bool(plan.recipe.stored_dtype))
    if plan.tokenizer is not None:
        config = plan.tokenizer.adjusted(config)
    if not config:
        return
    if config == read_json(path):
        shutil.copyfile(path, directory / "config.json")
    else:
        (directory / "config.json").write_text(config_text(config), "utf-8")


def _write_generation_config(plan: Plan, donor: Path, directory: Path) -> None:
    path = donor / GENERATION_NAME
    if plan.tokenizer is None or not path.is_file():
        copy_files(donor, directory, (GENERATION_NAME,))
        return
    config = plan.tokenizer.adjusted(read_json(path))
    (directory / GENERATION_NAME).write_text(config_text(config), "utf-8")


def _write_tokenizer(plan: Plan, sources: Mapping[str, SourceCheckpoint], directory: Path) -> None:
    """The tokenizer's files: the donor's as they are, or those of the merged vocabulary."""
    recipe = plan.recipe
    if plan.tokenizer is None:
        copy_files(sources[recipe.tokenizer_donor].directory, directory, TOKENIZER_FILES)
    else:
        for name, content in plan.tokenizer.files.items():
            (directory / name).write_bytes(content)
    if recipe.chat_template is not None:
        directories = [sources[reference].directory for reference in recipe.references()]
        template = chat_template_for(recipe.chat_template, directories)
        if template is not None:
            write_chat_template(template, directory)


def _library(directory: Path) -> str:
    """The library that loads a checkpoint, by its files."""
    if (directory / MODULES_NAME).exists():
        return "sentence-transformers"
    config = directory / "config.json"
    is_diffusion = config.exists() and DIFFUSERS_KEY in read_json(config)
    return "diffusers" if is_diffusion else "transformers"
