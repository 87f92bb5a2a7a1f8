"""Checkpoints in safetensors files: one file, or shards and an index, which must agree.

Of several files in a directory those count that the index names, and no others: weights in another
layout, or left over from an earlier save, are neither compared nor hashed. A repository on the Hub
is held to the same rule, by its file names alone, so they are not even downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from merge_core.checkpoints.reader import Weights
from merge_core.errors import CheckpointError, unreadable
from merge_core.files.bounded_json import read_json
from merge_core.files.untrusted import is_file_name, read_beginning
from merge_core.findings import counted, printable, some
from merge_core.tensors.safetensors_header import KnownHeaders, TensorEntry, read_header

SUFFIX = ".safetensors"
INDEX_SUFFIX = ".safetensors.index.json"
MODEL_STEM = "model"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_STEMS = (MODEL_STEM, "diffusion_pytorch_model")
"""What the names of weight files begin with where transformers and diffusers look for them."""
_SET = re.compile(r"-\d+(-of-\d+)\.safetensors$")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_MANY = 8
_LONGEST_COMMIT = 64
MAX_TENSORS = 1 << 20
"""Of all shards together; the largest published models have a fifth of it."""


def reads(directory: Path) -> bool:
    """Always: of a directory without safetensors, `read` says what it holds instead."""
    return True


def read(directory: Path, known: KnownHeaders | None) -> Weights:
    """The tensors that the headers describe.

    Raises:
        CheckpointError: no safetensors weights (pickles are refused), a missing or extra shard, a
            shard outside the directory, a tensor in two shards, an index that disagrees with the
            headers, a damaged header.
    """
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
    return Weights(tensors, stem, tuple(unnamed_files(stem, shards, names_here)))


def used(directory: Path) -> frozenset[str] | None:
    """The index and the files that it names, or the only file."""
    stem = stem_of({path.name for path in directory.iterdir()})
    if stem is None:
        return None
    index = directory / f"{stem}{INDEX_SUFFIX}"
    return used_files(stem, weight_map_in(index) if index.exists() else None)


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
        if shard.endswith(SUFFIX) and _is_below(shard):
            raise CheckpointError(
                f"{index} names the shard {shard[:120]!r} in a directory below, which is not read",
                where=str(directory),
                mend=f"move the shards beside {index}, and take the directory off their names in"
                " it",
            )
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


def _is_below(shard: str) -> bool:
    """Whether a shard's name is that of a file in a directory below: transformers would read it."""
    parts = shard.split("/")
    return len(parts) > 1 and all(map(is_file_name, parts))


def _only_file(directory: Path) -> str:
    """The stem of a directory's only weight file; refused where there is none, or no only one."""
    found = sorted(path.name for path in directory.glob(f"*{SUFFIX}"))
    if len(found) == 1 and "-of-" not in found[0] and found[0] != ADAPTER_WEIGHTS:
        return found[0].removesuffix(SUFFIX)
    if found == [ADAPTER_WEIGHTS]:
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
    found = sorted(
        (path for path in place.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime
    )
    main = place.parent / "refs" / "main"
    if main.is_file():
        named = place / read_beginning(main, _LONGEST_COMMIT).decode("utf-8", "replace").strip()
        found += [path for path in found if path == named]
    return found[-1] if found else None


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


def stem_of(names: Collection[str]) -> str | None:
    """What the names of the weight files begin with: the usual names first, else the only index's;
    None where neither tells."""
    for stem in _STEMS:
        if f"{stem}{INDEX_SUFFIX}" in names or f"{stem}{SUFFIX}" in names:
            return stem
    indices = [name for name in names if name.endswith(INDEX_SUFFIX)]
    return indices[0].removesuffix(INDEX_SUFFIX) if len(indices) == 1 else None


def used_files(stem: str, weight_map: Mapping[str, str] | None) -> frozenset[str]:
    """Names of the weight files of a checkpoint, its index included.

    Args:
        weight_map: the index's, where there is one.
    """
    if weight_map is None:
        return frozenset((f"{stem}{SUFFIX}",))
    return frozenset((f"{stem}{INDEX_SUFFIX}", *weight_map.values()))


def refuse_doubtful(
    stem: str, weight_map: Mapping[str, str], names: Collection[str], where: str
) -> None:
    """Refuse an index beside which lies what belongs to the model too, or is read in its place.

    Args:
        names: of the files that are there.

    Raises:
        CheckpointError: a shard of the set that the index names some of, or a whole file that
            transformers prefers to the index.
    """
    named = set(weight_map.values())
    index = printable(f"{stem}{INDEX_SUFFIX}")
    sets = {found[1] for name in named if (found := _SET.search(name))}
    for name in sorted(unnamed_files(stem, named, names)):
        own_set = _SET.search(name)
        if not named or (own_set and own_set[1] in sets):
            raise CheckpointError(
                f"{printable(name)} is not named by {index}, which names others of its set",
                where=where,
                mend="the index is damaged or of another save: download the files into a"
                " directory, put the right index there, and name that directory",
            )
        if name == f"{stem}{SUFFIX}":
            raise CheckpointError(
                f"{printable(name)} is not named by {index}, and transformers reads it in place of"
                " what the index names",
                where=where,
                mend="download the files into a directory, remove the one of the two that is left"
                " over, and name that directory",
            )


def unnamed_files(stem: str, named: Collection[str], names: Collection[str]) -> list[str]:
    """Weight files that look like the checkpoint's and are not among those that are named."""
    return sorted(
        name
        for name in names
        if name not in named
        and name.endswith(SUFFIX)
        and (name == f"{stem}{SUFFIX}" or name.startswith(f"{stem}-"))
    )
