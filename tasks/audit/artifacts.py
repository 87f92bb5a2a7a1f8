"""The files of the merge's run: those of its record, each with the bytes that it had then."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from merge_core.findings import printable
from tasks.audit.evidence import Evidence
from tasks.audit.report import Answers
from tasks.audit.signatures import ARTIFACTS as SIGNATURES
from tasks.lineage.keep import PAGE
from tasks.registry.file_list import FILE_LIST, FILES_TAG, PAGE_TAG, read_file_list, sha256_of

_MOST_FILES = 10_000


def check(evidence: Evidence, answers: Answers) -> None:
    """None is missing, none has other bytes, none is more."""
    run = evidence.run
    if run is None:
        answers.unknown("there is no run that has files")
        return
    noted, content = run.data.tags.get(FILES_TAG), evidence.file(FILE_LIST)
    if content is None and not noted:
        answers.unknown("it was registered before the files of a run were listed")
        return
    if content is None:
        answers.fails(f"the run's {FILE_LIST} is missing")
        return
    answers.same(f"the sha256 of {FILE_LIST}", sha256_of(content), noted, "the run")
    try:
        listed = read_file_list(content)
    except ValueError:
        answers.fails(f"{FILE_LIST} cannot be read")
        return
    present = {*_present(evidence, "")}
    root = evidence.downloaded("")
    for name, sha256 in listed.items():
        found = _content(evidence, root, name) if name in present else None
        if found is None:
            answers.fails(f"{printable(name)} among the files of the run is missing")
        elif sha256_of(found) != sha256:
            answers.fails(f"{printable(name)} among the files of the run has changed")
    for name in sorted(present - {*listed, FILE_LIST, PAGE}):
        answers.fails(f"{printable(name)} among the files of the run was put there by others")
    _page(evidence, run.data.tags.get(PAGE_TAG), answers)
    if not answers.failed:
        answers.holds(f"the {len(listed)} files of its record are as they were, and no others came")


def _page(evidence: Evidence, noted: str | None, answers: Answers) -> None:
    """The ancestry, which is drawn after the record is finished."""
    page = evidence.file(PAGE)
    if page is not None:
        answers.same(f"the sha256 of {PAGE}", sha256_of(page), noted, "the run")
    elif noted:
        answers.unknown(f"{PAGE} is not there any more, or could not be written")


def _content(evidence: Evidence, root: Path | None, name: str) -> bytes | None:
    """A file from all that was fetched at once, or by itself where something stopped that."""
    try:
        return (root / name).read_bytes() if root is not None else evidence.file(name)
    except OSError:
        return None


def _present(evidence: Evidence, directory: str) -> Iterator[str]:
    """Every file below a directory, but for signatures."""
    if evidence.run is None:
        return
    client, run_id = evidence.registry.client, evidence.run.info.run_id
    found = client.list_artifacts(run_id, directory or None)[:_MOST_FILES]
    if directory and not found:
        yield f"{directory}/"  # nobody makes a directory for nothing
    for item in found:
        if item.path == SIGNATURES:
            continue
        if item.is_dir:
            yield from _present(evidence, item.path)
        else:
            yield item.path
