"""A checkpoint directory as a whole: its shards, its index, its config, checked against each other.

Only headers are read here. Weights stay on disk until the engine streams them.
"""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from merge_core.checkpoints.weight_files import (
    INDEX_SUFFIX,
    MODEL_STEM,
    SUFFIX,
    refuse_doubtful,
    stem_of,
    unnamed_files,
    used_files,
)
from merge_core.errors import CheckpointError, one_line, unreadable
from merge_core.files.bounded_json import parse_json
from merge_core.files.untrusted import is_file_name, read_beginning, read_plain
from merge_core.findings import counted, printable, some
from merge_core.runtime.garbage import collection_paused
from merge_core.tensors.dtypes import name_of
from merge_core.tensors.inputs import TensorInput
from merge_core.tensors.safetensors_header import KnownHeaders, TensorEntry, read_header
from merge_core.tensors.wrapper_names import unwrapped_names, words_taken

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_MAX_JSON_BYTES = 100 << 20
_MAX_DEPTH = 64
_NESTED = (dict, list)
_MANY = 8
_LONGEST_COMMIT = 64
MAX_TENSORS = 1 << 20
"""Of all shards together; the largest published models have a fifth of it."""


@dataclass(frozen=True)
class Checkpoint:
    """A sound safetensors checkpoint on this disk, or one made from others as it is read."""

    directory: Path
    tensors: Mapping[str, TensorInput]
    """Every tensor by name: in name order on disk, in the result's order where it is made."""
    shards: tuple[str, ...]
    """Names of the weight files, in order."""
    config: Mapping[str, Any]
    """config.json as it is; empty when there is none."""
    stem: str = MODEL_STEM
    """What the names of its weight files begin with: `model` in `model-00001-of-00002`."""
    unnamed: tuple[str, ...] = ()
    """Weight files of the same name beside it that its index does not name: left alone."""
    wrapper: str = ""
    """Words of a training wrapper that its files have in the tensors' names, as `_orig_mod.`."""

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(entry.numel for entry in self.tensors.values())

    @property
    def dtype(self) -> str:
        """torch's name of the dtype that holds most weights."""
        weights: Counter[str] = Counter()
        for entry in self.tensors.values():
            weights[entry.dtype] += entry.numel
        return name_of(weights.most_common(1)[0][0]) if weights else "float32"


@collection_paused()
def open_checkpoint(directory: Path, known: KnownHeaders | None = None) -> Checkpoint:
    """Read a checkpoint's headers and check them against its index and the files that are there.

    Args:
        known: headers of the checkpoints that were opened with it, which need not be parsed again.

    Raises:
        CheckpointError: no such directory, no safetensors weights (pickles are refused), a missing
            or extra shard, a shard outside the directory, a tensor in two shards, an index that
            disagrees with the headers, a damaged header, a config that is not JSON.
    """
    if not directory.is_dir():
        raise CheckpointError("there is no such directory", where=str(directory))
    try:
        names_here = {path.name for path in directory.iterdir()}
    except OSError as error:
        raise unreadable(directory, error) from error
    stem = stem_of(names_here) or _stem(directory)
    index = f"{stem}{INDEX_SUFFIX}"
    indexed = (directory / index).exists()
    weight_map = weight_map_in(directory / index) if indexed else {}
    if indexed:
        shards = _indexed_shards(directory, index, weight_map)
        refuse_doubtful(stem, weight_map, names_here, str(directory))
    else:
        shards = (f"{stem}{SUFFIX}",)
    tensors: dict[str, TensorEntry] = {}
    placed: dict[str, str] = {}
    for shard in shards:
        found = read_header(directory / shard, known)
        before = len(tensors)
        tensors |= found
        if len(tensors) < before + len(found):
            name = min(placed.keys() & found.keys())
            raise CheckpointError(
                f"tensor {name!r} is in two shards, {placed[name]} and {shard}",
                where=str(directory),
                mend="fetch or save the checkpoint again",
            )
        placed |= dict.fromkeys(found, shard)
        if len(tensors) > MAX_TENSORS:
            raise CheckpointError(
                f"the checkpoint holds more than {MAX_TENSORS:,} tensors", where=str(directory)
            )
    if indexed:
        _check_index(directory, index, weight_map, placed)
    if not tensors:
        raise CheckpointError("the checkpoint holds no tensors", where=str(directory))
    config_path = directory / "config.json"
    config = read_json(config_path) if config_path.exists() else {}
    new = unwrapped_names(tensors)
    tensors = (
        {new[name]: it._replace(name=new[name]) for name, it in tensors.items()} if new else tensors
    )
    names = sorted(tensors)
    return Checkpoint(
        directory,
        MappingProxyType(dict(zip(names, map(tensors.__getitem__, names), strict=True))),
        shards,
        MappingProxyType(config),
        stem,
        tuple(unnamed_files(stem, shards, names_here)),
        words_taken(new) if new else "",
    )


def weights_used(directory: Path) -> frozenset[str] | None:
    """Names of the files in a directory that hold its checkpoint's weights, or say where they are.

    None where the names do not tell.

    Raises:
        CheckpointError: the index is damaged.
    """
    stem = stem_of({path.name for path in directory.iterdir()})
    if stem is None:
        return None
    index = f"{stem}{INDEX_SUFFIX}"
    present = (directory / index).exists()
    return used_files(stem, weight_map_in(directory / index) if present else None)


def read_json(path: Path, *, unique_keys: bool = False, finite: bool = False) -> dict[str, Any]:
    """A JSON object from a checkpoint's file, with its size and depth bounded.

    Options as for `merge_core.files.bounded_json.parse_json`.

    Raises:
        CheckpointError: unreadable, a link out of its directory, no plain file, too large, too
            deep, or not an object.
    """
    content = read_plain(path, _MAX_JSON_BYTES)
    if content.startswith(codecs.BOM_UTF8):
        raise CheckpointError(
            f"{path.name} begins with a byte order mark, with which no library reads it",
            where=str(path.parent),
            mend="save it as UTF-8 without a byte order mark (in an editor: UTF-8, not UTF-8 with"
            " BOM)",
        )
    try:
        value = parse_json(content, unique_keys=unique_keys, finite=finite)
    except ValueError as error:
        raise CheckpointError(
            f"{path.name} is not JSON: {one_line(error)}",
            where=str(path.parent),
            mend="fetch it again",
        ) from None
    if not isinstance(value, dict) or _deeper_than(value, _MAX_DEPTH):
        raise CheckpointError(
            f"{path.name} is not a plain JSON object", where=str(path.parent), mend="fetch it again"
        )
    return value


def _stem(directory: Path) -> str:
    """What the name of the only weight file begins with."""
    indices = sorted(path.name for path in directory.glob(f"*{INDEX_SUFFIX}"))
    if len(indices) > 1:
        raise CheckpointError(
            f"there are {len(indices)} models here: {printable(indices[0])} and"
            f" {printable(indices[1])}",
            where=str(directory),
            mend="put each in a directory of its own, with its config.json",
        )
    return _only_file(directory)


def _indexed_shards(directory: Path, index: str, weight_map: Mapping[str, str]) -> tuple[str, ...]:
    shards = sorted(set(weight_map.values()))
    for shard in shards:
        if not is_file_name(shard) or not shard.endswith(SUFFIX):
            raise CheckpointError(
                f"{index} points to {shard[:120]!r}, which is not a file of this directory",
                where=str(directory),
                mend="do not trust this checkpoint; fetch it again from its publisher",
            )
        if not (directory / shard).exists():
            raise CheckpointError(
                f"shard {shard} is missing", where=str(directory), mend="fetch it again"
            )
    return tuple(shards)


def _only_file(directory: Path) -> str:
    """The stem of a directory's only weight file; refused where there is none, or no only one."""
    found = sorted(path.name for path in directory.glob(f"*{SUFFIX}"))
    if len(found) == 1 and "-of-" not in found[0] and found[0] != "adapter_model.safetensors":
        return found[0].removesuffix(SUFFIX)
    if found == ["adapter_model.safetensors"]:
        raise CheckpointError(
            "this is a LoRA adapter, not a full checkpoint",
            where=str(directory),
            mend="write BASE+ADAPTER, where BASE is the checkpoint that it was trained on",
        )
    if found:
        raise CheckpointError(
            f"there are {len(found)} weight files but no {MODEL_STEM}{INDEX_SUFFIX}",
            where=str(directory),
            mend="fetch the index file again",
        )
    pickles = sorted(path.name for pattern in _PICKLES for path in directory.glob(pattern))
    if pickles:
        raise CheckpointError(
            f"{printable(pickles[0])} is a pickle, which can run code when loaded; only"
            " safetensors are read",
            where=str(directory),
            mend="if you trust it, convert it once: load it with transformers and call"
            " save_pretrained(DIRECTORY), which writes safetensors",
        )
    snapshot = _snapshot_of(directory)
    if snapshot is not None:
        raise CheckpointError(
            "this is a repository's folder of the Hub cache, not a checkpoint",
            where=str(directory),
            mend=f"name the snapshot in it: {printable(snapshot, 400)}",
        )
    parts = sorted({path.parent.name for path in directory.glob(f"*/*{SUFFIX}")})
    if parts:
        raise CheckpointError(
            f"this is a pipeline of several models: {printable(', '.join(parts[:_MANY]))}",
            where=str(directory),
            mend=f"merge them one by one: {printable(directory / parts[0])} is a checkpoint",
        )
    converted = sorted(path.name for path in directory.glob("*.gguf"))
    if converted:
        raise CheckpointError(
            f"no safetensors weights here, but {printable(converted[0])}: a conversion to GGUF,"
            " whose values are rounded, is not merged",
            where=str(directory),
            mend="use the checkpoint it was made from (its model card names it), merge, and convert"
            " the result",
        )
    raise CheckpointError(
        "no safetensors weights here",
        where=str(directory),
        mend="a checkpoint directory holds model.safetensors, or shards and their index",
    )


def _snapshot_of(directory: Path) -> Path | None:
    """The snapshot below a repository's folder of the Hub cache: that of `main`, else the newest.

    Also for the cache's folder `snapshots` itself.
    """
    place = directory if directory.name == "snapshots" else directory / "snapshots"
    if not place.is_dir():
        return None
    found = sorted((path for path in place.iterdir() if path.is_dir()), key=_changed_at)
    main = place.parent / "refs" / "main"
    if main.is_file():
        named = place / read_beginning(main, _LONGEST_COMMIT).decode("utf-8", "replace").strip()
        found += [path for path in found if path == named]
    return found[-1] if found else None


def _changed_at(path: Path) -> float:
    return path.stat().st_mtime


def weight_map_in(path: Path) -> dict[str, str]:
    """The shard of every tensor, by name, as an index says.

    Raises:
        CheckpointError: it says nothing of the kind.
    """
    directory, index = path.parent, path.name
    content = read_json(path, unique_keys=True)
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, dict) or {*map(type, weight_map.values())} - {str}:
        raise CheckpointError(f"{printable(index)} has no usable weight_map", where=str(directory))
    if not isinstance(content.get("metadata", {}), dict):
        raise CheckpointError(
            f"{printable(index)} has metadata that is not an object", where=str(directory)
        )
    return weight_map


def _check_index(
    directory: Path, index: str, weight_map: Mapping[str, str], placed: Mapping[str, str]
) -> None:
    """Compare the shard of every tensor, by name, as the index says and as headers do."""
    if weight_map == placed:
        return
    again = (
        "fetch it again, or load the model with transformers and call save_pretrained(DIRECTORY)"
    )
    ghosts = sorted(weight_map.keys() - placed.keys())
    if ghosts:
        raise CheckpointError(
            f"{printable(index)} lists {counted(len(ghosts), 'tensor')} that no shard holds:"
            f" {some(ghosts)}",
            where=str(directory),
            mend=f"if it was published so, remove {'it' if len(ghosts) == 1 else 'these'} from"
            f" weight_map in {printable(directory / index, 400)}; else {again}",
        )
    for name in sorted(placed.keys() - weight_map.keys()):
        raise CheckpointError(
            f"tensor {name[:120]!r} of {placed[name]} is not in {printable(index)}",
            where=str(directory),
            mend=again,
        )
    for name, shard in weight_map.items():
        if placed[name] != shard:
            raise CheckpointError(
                f"tensor {name[:120]!r} is in {placed[name]}, not in {shard} as"
                f" {printable(index)} says",
                where=str(directory),
                mend="fetch or save the checkpoint again",
            )


def _deeper_than(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        level = [
            item
            for outer in level
            for item in (outer.values() if isinstance(outer, dict) else outer)
            if type(item) in _NESTED
        ]
        if not level:
            return False
    return True
