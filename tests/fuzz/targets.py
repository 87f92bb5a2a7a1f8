"""What is fuzzed: each target damages valid files in a directory and reads them as a merge would.

A target returns after a refusal by `MergeflowError` or with something valid, which it checks; any
other exception is a bug in mergeflow.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from merge_core.checkpoints.adapters import adapted, open_adapter
from merge_core.checkpoints.checkpoint import open_checkpoint
from merge_core.checkpoints.sources import describe_source
from merge_core.files.digests import DigestMemo, canonical_json
from merge_core.planning.plan import make_plan
from merge_core.recipes.loading import load_recipe, parse_recipe
from merge_core.recipes.warnings import warnings_of
from merge_core.tensors.dtypes import ITEM_SIZES
from merge_core.tensors.safetensors_header import TensorEntry, read_header
from merge_core.verification.tolerance import Tolerance
from merge_core.verification.verify import verify
from tests.fuzz.mutations import as_json, as_yaml, damaged, safetensors, scrambled
from tests.support.adapters import random_factors, write_adapter
from tests.support.tiny_llama import base_weights, fine_tuned, write_llama

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"


class Target(ABC):
    """One kind of input. `prepare` once; then for each case `damage`, and `read` under watch."""

    name: str
    share: float
    """Of all cases."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        """All that `read` may open."""
        directory.mkdir(parents=True)
        self.prepare()

    @abstractmethod
    def prepare(self) -> None:
        """Write what stays the same."""

    @abstractmethod
    def damage(self, rng: random.Random) -> None:
        """Write one case."""

    @abstractmethod
    def read(self) -> None:
        """Read it as a merge would.

        Raises:
            MergeflowError: it was refused.
            AssertionError: something was accepted that is not valid.
        """


class Headers(Target):
    """The header of one weight file."""

    name, share = "headers", 0.5

    def prepare(self) -> None:
        self.path = self.directory / "model.safetensors"

    def damage(self, rng: random.Random) -> None:
        self.path.write_bytes(damaged_weights(rng, _header(rng)))

    def read(self) -> None:
        check_entries(self.directory, read_header(self.path).values())


class Indices(Target):
    """Two shards and their index; some files replaced by links, directories, FIFOs, sockets."""

    name, share = "indices", 0.29

    def prepare(self) -> None:
        self.outside = self.directory / "outside.safetensors"
        self.checkpoint = self.directory / "checkpoint"
        header = {"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}
        self.outside.write_bytes(_file(header))

    def damage(self, rng: random.Random) -> None:
        clear(self.checkpoint)
        headers = [_header(rng, "a"), _header(rng, "b")]
        index = {
            "metadata": {"total_size": 1},
            "weight_map": {
                name: shard
                for shard, header in zip(SHARDS, headers, strict=True)
                for name in header
            },
        }
        for shard, header in zip(SHARDS, headers, strict=True):
            content = damaged_weights(rng, header) if rng.random() < 0.1 else _file(header)
            (self.checkpoint / shard).write_bytes(content)
        content = as_json(damaged(index, rng, rng.choice((0, 1, 1, 2, 4))), rng)
        if rng.random() < 0.3:
            content = scrambled(content, rng)
        (self.checkpoint / INDEX).write_bytes(content)
        (self.checkpoint / "config.json").write_bytes(b"{}")
        if rng.random() < 0.15:
            name = rng.choice((*SHARDS, INDEX, "config.json", "model.safetensors", "x.safetensors"))
            replace_by_something_else(self.checkpoint / name, self.outside, rng)

    def read(self) -> None:
        opened = open_checkpoint(self.checkpoint)
        entries = [each for each in opened.tensors.values() if isinstance(each, TensorEntry)]
        assert len(entries) == len(opened.tensors)
        check_entries(self.checkpoint, entries)


class SmallFiles(Target):
    """Config, tokenizer, template, modules, model card of a model that is checked and planned."""

    name, share = "small files", 0.06

    def prepare(self) -> None:
        weights = base_weights()
        self.base = write_llama(self.directory / "base", weights)
        self.model = self.directory / "model"
        write_llama(self.model, fine_tuned(weights, 1), card="---\nbase_model: org/base\n---\n")
        (self.model / "modules.json").write_text('[{"path": ""}, {"path": "1_Pooling"}]')
        (self.model / "1_Pooling").mkdir()
        (self.model / "1_Pooling" / "config.json").write_text("{}")
        (self.model / "modeling_own.py").write_text("from .layers_own import L\n")
        (self.model / "layers_own.py").write_text("L = 1\n")
        special = {"bos_token": {"content": "<s>"}, "eos_token": "</s>"}
        (self.model / "special_tokens_map.json").write_text(json.dumps(special))
        (self.model / "generation_config.json").write_text('{"eos_token_id": [2, 3]}')
        (self.model / "chat_template.json").write_text('{"chat_template": [{"name": "default"}]}')
        config = json.loads((self.model / "config.json").read_text())
        config |= {"auto_map": {"AutoModel": "modeling_own.M"}, "text_config": {"vocab_size": 32}}
        (self.model / "config.json").write_text(json.dumps(config))
        self.content = {
            path: path.read_bytes()
            for path in sorted(self.model.rglob("*"))
            if path.is_file() and path.suffix != ".safetensors"
        }
        self.outside = self.directory / "outside.json"
        self.outside.write_text("{}")
        self.changed: Path | None = None
        recipe = {
            "merge_method": "task_arithmetic",
            "base_model": "base",
            "models": [{"model": "model", "parameters": {"weight": 0.5}}],
        }
        self.recipes = (parse_recipe(recipe), parse_recipe(recipe | {"tokenizer_source": "union"}))
        self.recipe = self.recipes[0]

    def damage(self, rng: random.Random) -> None:
        if self.changed:
            remove(self.changed)
            self.changed.write_bytes(self.content[self.changed])
        self.recipe = rng.choice(self.recipes)
        self.changed = path = rng.choice(list(self.content))
        content = self.content[path]
        if path.suffix == ".json":
            content = as_json(damaged(json.loads(content), rng, rng.choice((1, 1, 2, 4))), rng)
        if path.suffix != ".json" or rng.random() < 0.2:
            content = scrambled(content, rng)
        path.write_bytes(content)
        if rng.random() < 0.05:
            replace_by_something_else(path, self.outside, rng)

    def read(self) -> None:
        model = describe_source("model", self.model, DigestMemo(None))
        report = verify(
            self.base, [model], scan_weights=False, tolerance=Tolerance.of(self.recipe), threads=1
        )
        canonical_json(report.model_dump(mode="json"))
        plan = make_plan(self.recipe, {"base": self.base, "model": model})
        assert plan.output_bytes < 1 << 24


class Adapters(Target):
    """The settings and the header of a LoRA adapter, applied to its base."""

    name, share = "adapters", 0.1

    def prepare(self) -> None:
        write_llama(self.directory / "base", base_weights())
        self.base = open_checkpoint(self.directory / "base")
        modules = {
            f"model.layers.{layer}.{module}": shape
            for layer in (0, 1)
            for module, shape in (("self_attn.q_proj", (16, 16)), ("mlp.up_proj", (48, 16)))
        }
        self.adapter = write_adapter(
            self.directory / "adapter",
            random_factors(modules, 2),
            rank_pattern={"q_proj": 2, r"layers\.(0|1)\.mlp.*": 2},
            alpha_pattern={"up_proj": 4},
            use_rslora=False,
        )
        self.config = json.loads((self.adapter / "adapter_config.json").read_text())
        self.weights = (self.adapter / "adapter_model.safetensors").read_bytes()

    def damage(self, rng: random.Random) -> None:
        config, weights = as_json(self.config, rng), self.weights
        if rng.random() < 0.7:
            config = as_json(damaged(self.config, rng, rng.choice((1, 1, 2, 4))), rng)
        else:
            length = int.from_bytes(weights[:8], "little")
            header = damaged(json.loads(weights[8 : 8 + length]), rng, rng.choice((1, 2)))
            weights = safetensors(as_json(header, rng), weights[8 + length :], rng)
        if rng.random() < 0.1:
            config = scrambled(config, rng)
        (self.adapter / "adapter_config.json").write_bytes(config)
        (self.adapter / "adapter_model.safetensors").write_bytes(weights)

    def read(self) -> None:
        adapter = open_adapter(self.adapter)
        for pair in adapter.pairs:
            assert math.isfinite(pair.scaling)
            check_entries(self.adapter, (pair.a, pair.b))
        adapted(self.base, adapter)


class Recipes(Target):
    """A recipe file."""

    name, share = "recipes", 0.05

    def prepare(self) -> None:
        self.path = self.directory / "recipe.yaml"
        entry = {"model": "a", "parameters": {"weight": [0.1, 0.9], "density": 0.5}}
        filters = [
            {"filter": "mlp", "value": 1},
            {"regex": "^a.*b$", "value": [0, 1]},
            {"value": 0},
        ]
        source = {"model": "a", "layer_range": [0, 2]}
        row = {"kind": "model_token", "model": "a", "token_id": 3}
        self.valid: list[dict[str, Any]] = [
            {
                "merge_method": "ties",
                "base_model": "base",
                "models": [entry, {"model": "b", "parameters": {"weight": filters}}],
                "parameters": {"density": 0.3, "normalize": True},
                "exclude": ["norm", {"glob": "*.bias"}],
                "post": [{"rescale": {}}],
                "dtype": "float32",
                "out_dtype": "bfloat16",
                "seed": 7,
                "chat_template": "auto",
            },
            {
                "merge_method": "linear",
                "models": [entry | {"parameters": {"weight": 1}}, {"model": "b@v1"}],
                "parameters": {"weight": 0.5},
                "tokenizer": {"source": "union", "tokens": {"<x>": {"source": row, "force": True}}},
            },
            {
                "merge_method": "passthrough",
                "slices": [{"sources": [source]}, {"sources": [source | {"layer_range": [1, 3]}]}],
            },
        ]
        for value in self.valid[1:]:
            parse_recipe(value)

    def damage(self, rng: random.Random) -> None:
        content = as_yaml(damaged(rng.choice(self.valid), rng, rng.choice((0, 1, 1, 2, 4))), rng)
        self.path.write_bytes(scrambled(content, rng) if rng.random() < 0.3 else content)

    def read(self) -> None:
        recipe = load_recipe(self.path)
        warnings_of(recipe)
        again = parse_recipe(recipe.to_yaml())
        assert again.digest == recipe.digest
        assert again.references() == recipe.references()


TARGETS: tuple[type[Target], ...] = (Headers, Indices, SmallFiles, Adapters, Recipes)


def check_entries(directory: Path, entries: Iterable[TensorEntry]) -> None:
    """Every accepted tensor is described fully and lies in its file, which is in the directory."""
    for entry in entries:
        assert entry.path.parent == directory
        assert entry.name.isprintable()
        assert entry.nbytes == math.prod(entry.shape) * ITEM_SIZES[entry.dtype]
        assert entry.offset >= 8
        assert entry.offset + entry.nbytes <= entry.path.stat().st_size


def damaged_weights(rng: random.Random, header: dict[str, Any]) -> bytes:
    """A weight file whose header, length or data is not what it should be."""
    if rng.random() < 0.02:
        return rng.randbytes(rng.choice((0, 1, 7, 8, 9, 100, 5000)))
    content = as_json(damaged(header, rng, rng.choice((0, 1, 1, 2, 4))), rng)
    if rng.random() < 0.3:
        content = scrambled(content, rng)
    data = bytes(max(0, _size(header) + rng.choice((0, 0, 0, 0, 0, -1, 1, 8))))
    return safetensors(content, data, rng)


def replace_by_something_else(path: Path, outside: Path, rng: random.Random) -> None:
    """Put a link, a directory, a FIFO or a socket where a file was or could be."""
    remove(path)
    kind = rng.randrange(7)
    if kind == 0:
        path.symlink_to(outside)
    elif kind == 1:
        path.symlink_to("nowhere")
    elif kind == 2:
        path.symlink_to(path.name)
    elif kind == 3:
        path.symlink_to("/dev/zero")
    elif kind == 4:
        path.mkdir()
    elif kind == 5:
        os.mkfifo(path)
    else:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))


def clear(directory: Path) -> None:
    """An empty directory."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()


def remove(path: Path) -> None:
    """Nothing at this place."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _header(rng: random.Random, prefix: str = "a") -> dict[str, Any]:
    """A valid header of a few tensors; all kinds of dtypes, extents of 0 among them."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}} if rng.random() < 0.5 else {}
    at = 0
    for number in range(rng.choice((1, 2, 3, 6))):
        dtype = rng.choice(sorted(ITEM_SIZES))
        shape = [rng.choice((0, 1, 2, 3, 8)) for _ in range(rng.randrange(4))]
        size = math.prod(shape) * ITEM_SIZES[dtype]
        name = f"{prefix}.layers.{number}.weight"
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    return header


def _size(header: dict[str, Any]) -> int:
    return max((e["data_offsets"][1] for k, e in header.items() if k != "__metadata__"), default=0)


def _file(header: dict[str, Any]) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(_size(header))
