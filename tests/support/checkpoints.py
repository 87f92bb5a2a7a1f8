"""Small real checkpoints written for tests: any tensors, any dtype, any number of shards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import torch
from safetensors.torch import save_file

from merge_core.checkpoints.sources import describe_source
from merge_core.files.digests import DigestMemo
from merge_core.homes.home import Home
from merge_core.operations.execute import execute
from merge_core.planning.plan import make_plan
from merge_core.recipes.loading import parse_recipe
from merge_core.recipes.recipe import Recipe
from merge_core.records import CheckpointManifest, SourceCheckpoint
from merge_core.runtime.compute import Compute


def write_checkpoint(
    directory: Path, tensors: Mapping[str, torch.Tensor], *, shards: int = 1
) -> SourceCheckpoint:
    """Write tensors as a checkpoint directory; its reference is the directory's name."""
    directory.mkdir(parents=True)
    names = list(tensors)
    if shards == 1:
        save_file(dict(tensors), directory / "model.safetensors", metadata={"format": "pt"})
    else:
        weight_map = {}
        for index in range(shards):
            part = {name: tensors[name] for name in names[index::shards]}
            file = f"model-{index + 1:05}-of-{shards:05}.safetensors"
            save_file(part, directory / file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(part, file)
        index_file = directory / "model.safetensors.index.json"
        index_file.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (directory / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return describe_source(directory.name, directory, DigestMemo(None))


def run_recipe(
    recipe: Recipe | dict[str, object],
    sources: Mapping[str, SourceCheckpoint],
    out: Path,
    **options: object,
) -> CheckpointManifest:
    """Merge without the compatibility check, which has tests of its own.

    Sources are described as they are now: a test may have written to them.
    """
    sources = {
        name: source
        if source.adapter
        else describe_source(source.reference, source.directory, DigestMemo(None))
        for name, source in sources.items()
    }
    if not isinstance(recipe, Recipe):
        recipe = parse_recipe(recipe)
    plan_options = {"shard_bytes": options.pop("shard_bytes")} if "shard_bytes" in options else {}
    plan = make_plan(recipe, sources, **plan_options)  # type: ignore[arg-type]
    how = {
        field.name: options.pop(field.name) for field in fields(Compute) if field.name in options
    }
    return execute(
        plan, sources, home=Home(out.parent / "home"), out=out, compute=Compute(**how), **options
    )  # type: ignore[arg-type]
