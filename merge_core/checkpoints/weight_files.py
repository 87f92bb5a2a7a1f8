"""Which files hold a checkpoint's weights: those that its index names, and no others.

The same rule for a directory and for a repository on the Hub, by file names alone: weights in
another layout, or left over from an earlier save, are neither compared nor downloaded nor hashed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from merge_core.errors import CheckpointError
from merge_core.findings import printable

SUFFIX = ".safetensors"
INDEX_SUFFIX = ".safetensors.index.json"
MODEL_STEM = "model"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_STEMS = (MODEL_STEM, "diffusion_pytorch_model")
"""What the names of weight files begin with where transformers and diffusers look for them."""
_SET = re.compile(r"-\d+(-of-\d+)\.safetensors$")


def is_weight_file(name: str) -> bool:
    """Whether a file in a checkpoint's directory holds weights, or says where they are."""
    return name.endswith((SUFFIX, INDEX_SUFFIX))


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
