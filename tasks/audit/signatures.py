"""The signatures that lie with a merge's run in MLflow, as files that anybody may have written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from merge_core.errors import CheckpointError
from merge_core.files.untrusted import read_plain
from merge_core.homes.home import Home
from tasks.audit.evidence import GONE, Evidence
from tasks.registry.client import Registry
from tasks.registry.history import HistoryLine, find_histories
from tasks.registry.memory import canonical
from tasks.signing import model_signature, statement
from tasks.signing.envelope import LONGEST, Envelope, UnsoundError, read_envelope

if TYPE_CHECKING:
    from mlflow.entities import FileInfo

ARTIFACTS = "signatures"
"""Directory among the files of a merge's run; in it one for each key, called by its id."""
FILES = (model_signature.NAME, statement.NAME)
_MOST_ENTRIES = 100
_READERS = {
    model_signature.NAME: model_signature.read_model_signature,
    statement.NAME: read_envelope,
}


@dataclass(frozen=True)
class SignatureFile:
    """One of the two files of one key."""

    name: str
    content: bytes | None
    envelope: Envelope | None
    problem: str | None
    """Why it cannot be believed as a file, before its signature is looked at."""


@dataclass(frozen=True)
class Signed:
    """What claims to be signed by one key."""

    key_id: str
    """Name of the directory."""
    files: dict[str, SignatureFile]
    strange: tuple[str, ...] = ()
    """What else lies there."""


def signatures_of(evidence: Evidence) -> list[Signed]:
    """What lies with the merge's run, by key."""
    if evidence.run is None:
        return []
    run_id = evidence.run.info.run_id
    found = []
    for entry in _listed(evidence.registry, run_id, ARTIFACTS):
        key_id = entry.path.rpartition("/")[2]
        inside = _listed(evidence.registry, run_id, entry.path) if entry.is_dir else []
        files = {name: _file(evidence, entry.path, name, inside) for name in FILES}
        others = [each.path.rpartition("/")[2] for each in inside]
        strange = tuple(name for name in others if name not in FILES)
        found.append(Signed(key_id, files, strange))
    return found


def place_of(home: Home, object_id: str, key_id: str, run_id: str, name: str) -> Path:
    """Where the home keeps a file of a signature, beside the object: one over its files, and one
    for each run that decided on it."""
    directory = home.signatures / object_id / key_id
    return directory / name if name == model_signature.NAME else directory / f"{run_id}.{name}"


def read_signature_file(name: str, content: bytes) -> SignatureFile:
    """One of the files, from its bytes."""
    try:
        return SignatureFile(name, content, _READERS[name](content), None)
    except UnsoundError as error:
        return SignatureFile(name, content, None, str(error))


def signed_lines(evidence: Evidence, tags: dict[str, str]) -> Iterator[HistoryLine]:
    """What the model's history in this home says of signatures on the version's run.

    Args:
        tags: of the registered model.
    """
    run_id = evidence.run.info.run_id if evidence.run else None
    address = canonical(evidence.home, evidence.registry.tracking_uri)
    for history in find_histories(evidence.home, address, evidence.version.name, tags):
        for line in history.lines:
            if line.event == "signed" and line.run_id == run_id:
                yield line


def _listed(registry: Registry, run_id: str, path: str) -> list[FileInfo]:
    from mlflow.exceptions import MlflowException

    try:
        return list(registry.client.list_artifacts(run_id, path))[:_MOST_ENTRIES]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except MlflowException as error:
        if error.error_code not in GONE:
            raise
        return []


def _file(
    evidence: Evidence, directory: str, name: str, inside: Iterable[FileInfo]
) -> SignatureFile:
    entry = next((each for each in inside if each.path.rpartition("/")[2] == name), None)
    if entry is None:
        return SignatureFile(name, None, None, "it is missing")
    if entry.is_dir or (entry.file_size or 0) > LONGEST:
        return SignatureFile(name, None, None, "it is no file of a signature's size")
    path = evidence.downloaded(f"{directory}/{name}")
    try:
        content = read_plain(path, LONGEST) if path is not None else None
    except CheckpointError as error:
        return SignatureFile(name, None, None, error.what)
    if content is None:
        return SignatureFile(name, None, None, "it cannot be fetched")
    return read_signature_file(name, content)
