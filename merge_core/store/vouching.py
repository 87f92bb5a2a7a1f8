"""Whether a checkpoint on disk is what its record says: at a glance, or by every byte.

A glance believes the digest memo. At the moments that count, before an evaluation and before a
checkpoint is served, every byte is read, and what was read can be watched for changes afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from merge_core.checkpoints.sources import adapter_files, model_files
from merge_core.errors import CheckpointError, refused, unreadable
from merge_core.files.digests import DigestMemo, fingerprint
from merge_core.files.hashing import hash_files
from merge_core.files.present import files_present
from merge_core.files.sha256sums import MAX_SUMS_BYTES, SUMS_NAME, read_sums
from merge_core.files.untrusted import read_plain
from merge_core.findings import printable, some
from merge_core.progress import Progress
from merge_core.records import SourceAdapter, SourceCheckpoint
from merge_core.store.objects import object_problems, stored_place

Part = SourceCheckpoint | SourceAdapter


class Confirmed:
    """A checkpoint whose every byte was read and found to be as recorded."""

    def __init__(self, source: SourceCheckpoint, seen: Mapping[str, str]) -> None:
        self._source = source
        self._seen = dict(seen)

    def look_again(self) -> None:
        """See that no file has changed, come or gone since: quick, by what changes with a file.

        Raises:
            CheckpointError: one has.
        """
        now = _seen(self._source)
        for name in sorted(now.keys() | self._seen.keys()):
            if now.get(name) != self._seen.get(name):
                raise _not_as_recorded(self._source, f"{printable(name)} changed meanwhile")


def confirm(
    source: SourceCheckpoint, memo: DigestMemo, progress: Progress | None = None
) -> Confirmed:
    """Read every byte of a checkpoint, and compare it with its record.

    Args:
        memo: is told what the files hold, and asked nothing.

    Raises:
        CheckpointError: a file is missing, has changed, or is there without being recorded.
        UnreadableError: a file cannot be read now.
    """
    seen = _seen(source)
    found = departures(source, memo, afresh=True, progress=progress)
    if found:
        raise _not_as_recorded(source, some(found))
    confirmed = Confirmed(source, seen)
    confirmed.look_again()
    return confirmed


def departures(
    source: SourceCheckpoint,
    memo: DigestMemo,
    *,
    afresh: bool = False,
    progress: Progress | None = None,
) -> list[str]:
    """One sentence for each thing in which a checkpoint on disk is not as its record says.

    In a directory of the user's own, other files than those that decide what the model computes may
    come and go. In a store nothing may (`merge_core.store.objects`).

    Args:
        afresh: read every byte, whatever the memo says.

    Raises:
        UnreadableError: a file cannot be read now.
    """
    found: list[str] = []
    for part in _parts(source):
        stored = stored_place(part.directory)
        if stored is None:
            found += _of_own(part, memo, afresh, progress)
        else:
            found += _of_stored(part, stored, memo, afresh, progress)
    return found


def _parts(source: SourceCheckpoint) -> list[Part]:
    return [source, source.adapter] if source.adapter else [source]


def _of_stored(
    part: Part, stored: Path, memo: DigestMemo, afresh: bool, progress: Progress | None
) -> list[str]:
    problems = object_problems(stored, memo, afresh=afresh, progress=progress)
    if problems:
        return problems
    sums = read_sums(read_plain(stored / SUMS_NAME, MAX_SUMS_BYTES))
    other = [file.name for file in part.files if sums.get(file.name) != file.sha256]
    return [f"{printable(name)} is not the one of its record" for name in other]


def _of_own(part: Part, memo: DigestMemo, afresh: bool, progress: Progress | None) -> list[str]:
    directory = part.directory
    listed = {file.name: file.sha256 for file in part.files}
    try:
        present = {path.relative_to(directory).as_posix() for path in _deciding_files(part)}
    except CheckpointError as error:
        return [printable(refused(error))]
    except OSError as error:
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return [f"{directory} is gone"]
        raise unreadable(directory, error) from error
    here = sorted(name for name in listed if (directory / name).is_file())
    problems = [f"{printable(name)} is missing" for name in sorted(listed.keys() - set(here))]
    problems += [f"{printable(name)} is not listed" for name in sorted(present - listed.keys())]
    paths = [directory / name for name in here]
    stage = f"check {directory.name[:40]}"
    found = hash_files(directory, paths, memo, stage, progress, afresh=afresh)
    changed = (file.name for file in found if file.sha256 != listed[file.name])
    return problems + [f"{printable(name)} has changed" for name in changed]


def _deciding_files(part: Part) -> list[Path]:
    if isinstance(part, SourceAdapter):
        return adapter_files(part.directory)
    return model_files(part.directory)


def _seen(source: SourceCheckpoint) -> dict[str, str]:
    """What changes with each file of a checkpoint, by path; what is not there is left out."""
    found: dict[str, str] = {}
    for part in _parts(source):
        directory = part.directory
        names = {file.name for file in part.files}
        try:
            if stored_place(directory) is not None:
                present = files_present(directory, alone=True)
                names |= {*present.files, *present.directories}
            else:
                files = _deciding_files(part)
                names |= {path.relative_to(directory).as_posix() for path in files}
        except CheckpointError as error:
            refused(error)
        except OSError:
            continue  # it is gone
        for name in names:
            path = directory / name
            if path.is_dir():
                found[str(path)] = "a directory"
            elif path.exists():
                found[str(path)] = fingerprint(path)
    return found


def _not_as_recorded(source: SourceCheckpoint, what: str) -> CheckpointError:
    named = "" if source.reference == source.path else f"{source.reference}: "
    return CheckpointError(
        f"this checkpoint has changed since it was identified: {what}",
        where=f"{named}{source.path}",
        mend="run the same command again: what is in the store is merged again, and what is yours"
        " is identified anew",
    )
