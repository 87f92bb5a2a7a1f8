"""The list of the files that the record of a merge was made of, so that an edit of any is seen.

`files.json` lies with the run and has the sha256 of each; the tag `mergeflow.files` has its own.
What comes later, signatures and the page of the ancestry, is not in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from merge_core.files.bounded_json import parse_json
from tasks.registry.client import TAG, Registry
from tasks.registry.run_files import log_files

FILE_LIST = "files.json"
FILES_TAG = TAG + "files"
PAGE_TAG = TAG + "lineage"
"""Has the sha256 of the page of the ancestry."""


def keep_file_list(registry: Registry, run_id: str, files: Mapping[str, str | bytes]) -> None:
    """Put the list among the files of a run, and note its sha256."""
    sums = {name: sha256_of(content) for name, content in sorted(files.items())}
    content = json.dumps(sums, indent=1)
    log_files(registry, run_id, {FILE_LIST: content})
    registry.client.set_tag(run_id, FILES_TAG, sha256_of(content))


def read_file_list(content: bytes) -> dict[str, str]:
    """sha256 by name.

    Raises:
        ValueError: it is no such list.
    """
    found = parse_json(content, unique_keys=True)
    if not isinstance(found, dict) or not all(isinstance(each, str) for each in found.values()):
        raise ValueError("it is no list of files")
    return found


def sha256_of(content: str | bytes) -> str:
    """sha256 of what is, or will be, in a file."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()
