"""The files of a registered version, searched for names of checkpoints; nothing is loaded.

A version may lead to a checkpoint by its `MLmodel`, a file beside it, or a link, whatever its tags.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml

from merge_core.errors import StepError
from merge_core.files.sha256sums import SUMS_NAME
from merge_core.output.manifest import MANIFEST_NAME
from merge_core.output.model_files import RECIPE_NAME
from tasks.store.served import Files

_LARGEST = 1 << 20
_LARGEST_DOCUMENT = 1 << 16
_MOST, _DEEPEST = 2000, 8
_DOCUMENTS = ("MLmodel", ".json", ".yaml", ".yml")
_OUR_FILES = ("MLmodel", "checkpoint.json")
_OF_ANCESTORS = {MANIFEST_NAME, SUMS_NAME, RECIPE_NAME}
"""Files in which a merge names its inputs, which a version does not serve."""
_PATH = re.compile(r"(?:file:)?/[^\s\"'<>|\\\x00-\x1f]{2,4096}")
_QUOTED = re.compile(r'"(/[^"\n]{2,4096})"')


class UnreadableFilesError(StepError):
    """The files of a registered version cannot be read, so the items that it serves are unknown."""


def texts_in(files: Files, tracking_uri: str) -> Iterator[str]:
    """The texts of a version's files: each file whole, then the strings and paths in it.

    Files that are gone say nothing: no version can be loaded from them.

    Raises:
        UnreadableFilesError: they may be there, and cannot be read.
    """
    local = local_path(files.uri)
    try:
        if local is not None:
            yield from _texts_below(local, files.ours)
        else:
            for name, content in _downloaded(files, tracking_uri):
                yield from _texts_of(name, content)
    except (FileNotFoundError, NotADirectoryError):
        return
    except Exception as error:  # each kind of artifact store has errors of its own
        if getattr(error, "error_code", "") in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"):
            return
        raise UnreadableFilesError(
            f"its files at {files.uri} cannot be read ({type(error).__name__}: {error})",
            where=files.version,
            mend="let this process read them (credentials, the package of that kind of storage)",
        ) from None


def local_path(uri: str) -> Path | None:
    """The place on this disk that an artifact address means; None for one elsewhere."""
    if uri.startswith("/"):
        return Path(uri)
    parts = urlsplit(uri)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path))
    return None


def _texts_below(top: Path, ours: bool) -> Iterator[str]:
    yield os.path.realpath(top)
    if top.is_file():
        yield from _texts_of(top.name, _read(top))
        return
    seen = 0
    pending = [(top, 0)]
    while pending:
        directory, depth = pending.pop()
        for entry in os.scandir(directory):
            seen += 1
            if seen > _MOST:
                raise OSError("there are too many files to look through")
            if entry.is_symlink():
                yield os.path.realpath(entry.path)
            elif entry.is_dir() and depth < _DEEPEST:
                pending.append((Path(entry.path), depth + 1))
            elif ours and entry.name not in _OUR_FILES:
                continue
            elif entry.is_file() and entry.stat().st_size <= _LARGEST:
                yield from _texts_of(entry.name, _read(Path(entry.path)))


def _read(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return b""
        return file.read(_LARGEST)


def _downloaded(files: Files, tracking_uri: str) -> Iterator[tuple[str, bytes]]:
    from mlflow.artifacts import download_artifacts, list_artifacts

    seen = 0
    pending = [(files.uri.rstrip("/"), 0)]
    while pending:
        uri, depth = pending.pop()
        for info in list_artifacts(artifact_uri=uri, tracking_uri=tracking_uri):
            seen += 1
            if seen > _MOST:
                raise OSError("there are too many files to look through")
            name = posixpath.basename(info.path)
            if name in ("", ".", "..") or (files.ours and name not in _OUR_FILES):
                continue
            if info.is_dir:
                if depth < _DEEPEST:
                    pending.append((f"{uri}/{name}", depth + 1))
            elif (info.file_size or 0) <= _LARGEST:
                with tempfile.TemporaryDirectory(prefix="mergeflow-") as scratch:
                    place = download_artifacts(
                        artifact_uri=f"{uri}/{name}", dst_path=scratch, tracking_uri=tracking_uri
                    )
                    yield name, _read(Path(place))


def _texts_of(name: str, content: bytes) -> Iterator[str]:
    if name in _OF_ANCESTORS:
        return
    text = content.decode("utf-8", "replace")
    yield text
    yield from _PATH.findall(text)
    yield from _QUOTED.findall(text)
    if name.endswith(_DOCUMENTS) and len(content) <= _LARGEST_DOCUMENT:
        # Events, not values: an alias is not followed, so no small file becomes a large value.
        with contextlib.suppress(yaml.YAMLError, RecursionError):
            for event in yaml.parse(text, Loader=yaml.SafeLoader):
                if isinstance(event, yaml.ScalarEvent):
                    yield event.value
