"""Files that go with the weights: processors, modules of sentence encoders, a model's own code.

What is copied is what a list allows and what the checkpoint itself names, never anything outside
of its directory. Code is copied only for those who ask for it, since loading it runs it. All else
stays behind, and is reported.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from merge_core.errors import CheckpointError
from merge_core.files.bounded_json import parse_json, read_json
from merge_core.files.names import MODULES_NAME, is_companion, is_model_file
from merge_core.files.untrusted import (
    check_inside,
    check_plain,
    is_file_name,
    read_beginning,
    read_plain,
)
from merge_core.findings import printable

_MAX_MODULES_BYTES = 1 << 20
_MAX_CODE_BYTES = 8 << 20
_CODE_MAPS = (
    "config.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)
"""Files whose `auto_map` may name code."""
_RELATIVE_IMPORT = re.compile(r"^[ \t]*(?:from|import)[ \t]+\.(\w+)", re.MULTILINE)
_PLACE = r"[\w-][\w.-]{0,59}"
"""A directory's name in a module's path: a file system takes it, whatever its letters."""
_LONGEST_PLACE = 250
_OTHER_WEIGHTS = (
    *(".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf", ".npz", ".ot"),
    *(".bin.index.json", ".h5.index.json", ".msgpack.index.json"),
)
_REWRITTEN = (
    "README.md",
    "SHA256SUMS",
    "mergeflow_manifest.json",
    "mergeflow_recipe.yaml",
)


def companion_names(directory: Path) -> tuple[str, ...]:
    """Files to copy beside merged weights, by name; those of modules as `1_Pooling/config.json`.

    Raises:
        CheckpointError: modules.json is damaged, or leads out of the directory.
    """
    found = [path.name for path in directory.iterdir() if is_companion(path.name)]
    for module in _modules(directory):
        check_inside(directory.resolve(), directory / module)
        found += [f"{module}/{path.name}" for path in (directory / module).glob("*.json")]
    for name in found:
        if not is_file_name(name.rpartition("/")[2]):
            raise CheckpointError(
                f"the file name {printable(name)} holds control characters",
                where=str(directory),
                mend="do not trust this checkpoint; fetch it again from its publisher",
            )
    return tuple(sorted(name for name in found if (directory / name).is_file()))


def weights_of_modules(directory: Path) -> tuple[str, ...]:
    """Weight files of modules in directories of their own, as `2_Dense/model.safetensors`.

    Those too that a module of this kind has and that are not here: a download leaves them out.

    Raises:
        CheckpointError: modules.json is damaged, or leads out of the directory.
    """
    found = []
    for module in _modules(directory):
        place = directory / module
        here = [path.name for path in place.iterdir()] if place.is_dir() else []
        names = [name for name in here if name.endswith((".safetensors", *_OTHER_WEIGHTS))]
        usual = ["model.safetensors"] if module.endswith("_Dense") else []
        found += [f"{module}/{name}" for name in sorted(names) or usual]
    return tuple(found)


def code_names(directory: Path) -> tuple[str, ...]:
    """Files of code that the checkpoint's configs name, and those that they import in turn."""
    found: dict[str, None] = {}
    waiting = [name for config in _CODE_MAPS for name in _mapped_code(directory / config)]
    while waiting:
        name = waiting.pop()
        path = directory / name
        if name in found or not is_file_name(name) or not path.is_file():
            continue
        found[name] = None
        text = read_beginning(path, _MAX_CODE_BYTES).decode("utf-8", "replace")
        waiting += [f"{module}.py" for module in _RELATIVE_IMPORT.findall(text)]
    return tuple(sorted(found))


def left_behind(directory: Path, copied: Collection[str]) -> tuple[str, ...]:
    """What a checkpoint directory holds besides weights and the files that a merge takes over.

    Directories end in a slash; of a module's directory each file is named, weights included.
    """
    modules = _modules(directory)
    found = [
        f"{module}/{path.name}"
        for module in modules
        if (directory / module).is_dir()
        for path in (directory / module).iterdir()
    ]
    for path in directory.iterdir():
        if path.is_dir():
            if not any(path.name == PurePosixPath(module).parts[0] for module in modules):
                found.append(f"{path.name}/")
        elif not _is_expected(path.name):
            found.append(path.name)
    hidden = {name for name in found if name.startswith(".")}
    return tuple(sorted(set(found) - set(copied) - hidden))


def copy_files(source: Path, directory: Path, names: Collection[str]) -> tuple[str, ...]:
    """Copy those of the named files that there are; returns their names.

    Raises:
        CheckpointError: one is a link out of the checkpoint's directory.
    """
    present = tuple(name for name in names if (source / name).is_file())
    for name in present:
        check_plain(source.resolve(), source / name)
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, directory / name)
    return present


def _is_expected(name: str) -> bool:
    return is_model_file(name) or name in _REWRITTEN or name.endswith(_OTHER_WEIGHTS)


def _modules(directory: Path) -> list[str]:
    """Directories of the modules that modules.json lists, but for the checkpoint's own."""
    path = directory / MODULES_NAME
    if not path.is_file():
        return []
    modules = _list_of(path)
    places = [module.get("path") if isinstance(module, dict) else None for module in modules]
    for place in places:
        if not isinstance(place, str) or not _is_below(place):
            raise CheckpointError(
                f"{MODULES_NAME} points to {str(place)[:120]!r}, which is not a directory in this"
                " one",
                where=str(directory),
                mend="do not trust this checkpoint; fetch it again from its publisher",
            )
    return sorted({place for place in places if place})


def _list_of(path: Path) -> list[Any]:
    try:
        value = parse_json(read_plain(path, _MAX_MODULES_BYTES))
    except ValueError:
        value = None
    if not isinstance(value, list):
        raise CheckpointError(
            f"{path.name} is not a list of modules", where=str(path.parent), mend="fetch it again"
        )
    return value


def _is_below(place: str) -> bool:
    """Whether a path is the checkpoint's directory itself (empty) or plainly one below it."""
    parts = place.split("/") if place else []
    return len(place) < _LONGEST_PLACE and all(re.fullmatch(_PLACE, part) for part in parts)


def _mapped_code(config: Path) -> Iterator[str]:
    """Files that a config's `auto_map` names; code of other repositories is not among them."""
    if not config.is_file():
        return
    mapped = read_json(config).get("auto_map")
    values = mapped.values() if isinstance(mapped, dict) else ()
    for value in values:
        for each in value if isinstance(value, list) else [value]:
            module, _, _ = str(each).rpartition(".")
            if module.isidentifier():
                yield f"{module}.py"
