"""Where a model zoo is: built once for a directory, then found there again."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from dataclasses import asdict
from pathlib import Path

from flows.model_zoo.place import Zoo
from flows.model_zoo.settings import SCALES, ScaleName, Settings
from merge_core.errors import OutputError
from merge_core.files.locks import held, lock_file
from merge_core.progress import Progress

MANIFEST = "zoo.json"


def build_zoo(
    directory: Path, *, progress: Progress | None = None, scale: ScaleName = "demo"
) -> Zoo:
    """The zoo of this scale in `directory`: found there if whole, trained there if not.

    A build is made beside `directory` and renamed into place, so an interrupted one leaves
    nothing that could be taken for a zoo. A directory that is something else is refused.
    """
    directory = directory.absolute()
    settings = SCALES[scale]
    if is_whole(directory, settings):
        return Zoo(directory)
    if directory.exists() and not _is_replaceable(directory):
        raise OutputError(
            "it exists and is not a model zoo",
            where=str(directory),
            mend="name a directory that does not exist yet, or an earlier zoo",
        )
    directory.parent.mkdir(parents=True, exist_ok=True)
    # The build is held to one process; the kernel lets go of the lock when that process ends.
    with held(lock_file(directory.with_name(f".{directory.name}.lock"), 0o644)):
        if not is_whole(directory, settings):  # another process may have built it meanwhile
            # Imported late: to find a built zoo must not cost the import of torch.
            from flows.model_zoo.build import build

            staging = directory.with_name(f".{directory.name}.building")
            shutil.rmtree(staging, ignore_errors=True)
            build(Zoo(staging), settings, progress)
            _write_manifest(staging, settings)
            if directory.exists():
                shutil.rmtree(directory)
            staging.rename(directory)
    return Zoo(directory)


def is_whole(directory: Path, settings: Settings) -> bool:
    """Whether the zoo of these settings is there, with every file as it was written."""
    try:
        manifest = json.loads((directory / MANIFEST).read_text())
        return manifest["identity"] == _identity(settings) and all(
            _sha256(directory / name) == digest for name, digest in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError):
        return False


def _is_replaceable(directory: Path) -> bool:
    return directory.is_dir() and ((directory / MANIFEST).exists() or not any(directory.iterdir()))


def _write_manifest(directory: Path, settings: Settings) -> None:
    files = {
        path.relative_to(directory).as_posix(): _sha256(path)
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
    manifest = {
        "identity": _identity(settings),
        "scale": settings.name,
        "python": platform.python_version(),
        "files": files,
    }
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def _identity(settings: Settings) -> str:
    """The key of a zoo: its settings, and the interpreter whose text it was trained on."""
    facts = {"settings": asdict(settings), "python": platform.python_version()}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
