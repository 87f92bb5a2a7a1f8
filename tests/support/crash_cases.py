"""Merges that are killed, starved and raced in tests: small models, some recipes, both places."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from merge_core.errors import CheckpointError
from merge_core.tensors.safetensors_header import read_header
from tests.support.forked_commands import ForkedCommand, ForkServer, fork_server
from tests.support.tiny_llama import fine_tuned, write_llama

TENSORS = 48
TENSOR_BYTES = 2 * 128 * 256
"""All are of one size, so that bytes of progress are a number of tensors."""
THREADS = 2
_LAYERS = "model.layers.{}.mlp.up_proj.weight"
_RECIPES: dict[str, dict[str, Any]] = {
    "linear": {"merge_method": "linear"},
    "ties": {"merge_method": "ties", "parameters": {"density": 0.3}},
    "ties_global": {"merge_method": "ties", "parameters": {"density": 0.3, "scope": "global"}},
}


@dataclass(frozen=True)
class Case:
    """A merge to be disturbed: its recipe, its shards, and where its result goes."""

    recipe: str
    shard_bytes: int = 10**9
    store: bool = False

    def __str__(self) -> str:
        shards = "-sharded" if self.shard_bytes < TENSORS * TENSOR_BYTES else ""
        return f"{self.recipe}{shards}-{'store' if self.store else 'out'}"

    def start(self, server: ForkServer, models: Path, directory: Path, **how: Any) -> ForkedCommand:
        """Start it: into `directory / "out"`, or into the store of the home in the directory."""
        recipe, size = str(models / f"{self.recipe}.yaml"), str(self.shard_bytes)
        command = ["merge", recipe, "out", "--threads", str(THREADS), "--shard-size", size]
        if self.store:
            command = ["store", recipe, size]
        return server.start(command, directory, watched=[models], **how)

    def target(self, directory: Path) -> Path:
        """Where the checkpoint appears; of a store the directory that it appears in."""
        return directory / ("home/store/objects" if self.store else "out")

    def results(self, directory: Path) -> list[Path]:
        """Every checkpoint that is there for all to see."""
        target = self.target(directory)
        if self.store:
            return list(target.iterdir()) if target.exists() else []
        return [target] if target.exists() else []

    def leftovers(self, directory: Path) -> set[str]:
        """What there is besides the checkpoint and the home's own files."""
        places = [directory / "home/store/staging", directory]
        found = {path.name for place in places if place.is_dir() for path in place.iterdir()}
        return found - {"home", "out"}


def write_models(root: Path) -> Path:
    """A base and two fine-tunes with a recipe file for each kind of merge."""
    generator = torch.Generator().manual_seed(0)
    base = {
        _LAYERS.format(index): (torch.randn(128, 256, generator=generator) / 20).bfloat16()
        for index in range(TENSORS)
    }
    write_llama(root / "base", base)
    for seed, name in enumerate(("a", "b")):
        write_llama(root / name, fine_tuned(base, seed))
    for name, recipe in _RECIPES.items():
        models = [
            {"model": str(root / name), "parameters": {"weight": weight}}
            for name, weight in (("a", 0.5), ("b", 0.25))
        ]
        origin = {} if name == "linear" else {"base_model": str(root / "base")}
        (root / f"{name}.yaml").write_text(yaml.safe_dump(recipe | origin | {"models": models}))
    return root


@contextmanager
def merge_server(
    models: Path, recipes: Sequence[str] = tuple(_RECIPES), **how: Any
) -> Iterator[ForkServer]:
    """A server of forks that has done some merges once; options as for `fork_server`."""
    warm = models.parent / f"{models.name}-warm"
    commands = [["merge", str(models / f"{name}.yaml"), str(warm / name)] for name in recipes]
    with fork_server(**how) as server:
        server.warm_up(commands, warm / "home")
        yield server


def sums(directory: Path) -> dict[str, str]:
    """The sha256 of every file below a directory."""
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if not path.is_dir()
    }


def tensors_in(checkpoint: Path) -> dict[str, bytes]:
    """The bytes of every tensor in the weight files below a directory that can be read."""
    found = {}
    for path in checkpoint.rglob("*.safetensors"):
        try:
            entries = read_header(path)
        except CheckpointError:
            continue
        data = path.read_bytes()
        for name, entry in entries.items():
            found[name] = data[entry.offset : entry.offset + entry.nbytes]
    return found
