"""What somebody who may write to a store does to checkpoints in it, with every sum put right."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from merge_core.files.digests import model_digest
from merge_core.homes.home import Home
from merge_core.records import FileDigest

MANIFEST, SUMS = "mergeflow_manifest.json", "SHA256SUMS"


def loosen(directory: Path) -> None:
    """Make everything in a published directory writable again."""
    for path in (directory, *directory.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)


def flip(path: Path) -> bytes:
    """Change the last bit of a file; what it held before."""
    before = path.read_bytes()
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    return before


def reseal(directory: Path, **said: object) -> str:
    """Write manifest and sums for what is in a directory now; the id that it should have.

    Args:
        said: what the manifest is to say, beside its files.
    """
    manifest = directory / MANIFEST
    body = json.loads(manifest.read_text()) | said
    names = {path.relative_to(directory).as_posix() for path in directory.rglob("*")}
    names = {name for name in names if (directory / name).is_file()} - {MANIFEST, SUMS}
    body["files"] = [
        {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name in sorted(names)
        for content in ((directory / name).read_bytes(),)
    ]
    body["digest"] = model_digest([FileDigest(**each) for each in body["files"]])
    manifest.write_text(json.dumps(body, indent=2) + "\n")
    sums = {each["name"]: each["sha256"] for each in body["files"]}
    return write_sums(directory, sums | {MANIFEST: sha256(manifest)})


def write_sums(directory: Path, sums: Mapping[str, str]) -> str:
    """Write SHA256SUMS; its own digest."""
    text = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
    (directory / SUMS).write_text(text)
    return hashlib.sha256(text.encode()).hexdigest()


def sha256(path: Path) -> str:
    """As `sha256sum` prints it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pointer(home: Home, plan_digest: str) -> Path:
    """The file that names a plan's result."""
    return home.path / "store" / "plans" / plan_digest


def contents(directory: Path) -> dict[str, str]:
    """sha256 of each file below a directory, by name."""
    return {
        path.relative_to(directory).as_posix(): sha256(path)
        for path in directory.rglob("*")
        if path.is_file()
    }
