"""File digests that are remembered, and files that change while they are hashed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from merge_core.digests import DigestMemo, fingerprint, sha256_file


@pytest.fixture
def memo(tmp_path: Path) -> DigestMemo:
    return DigestMemo(tmp_path / "home" / "digests.db")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"before")
    os.utime(path, (0, 0))  # long ago: the clock of a file system may tick but every few ms
    return path


def test_a_digest_is_remembered_for_as_long_as_the_file_is_unchanged(
    memo: DigestMemo, file: Path
) -> None:
    memo.remember(file, "0" * 64, fingerprint(file))
    assert memo.sha256(file) == "0" * 64
    file.write_bytes(b"afterwards")
    assert memo.sha256(file) == hashlib.sha256(b"afterwards").hexdigest()


def test_a_file_that_changes_before_its_digest_is_noted_is_hashed_again(
    memo: DigestMemo, file: Path
) -> None:
    seen, digest = fingerprint(file), sha256_file(file)
    file.write_bytes(b"after!")
    memo.remember(file, digest, seen)
    assert memo.sha256(file) == hashlib.sha256(b"after!").hexdigest()


def test_a_file_that_changes_while_it_is_hashed_is_not_remembered(
    memo: DigestMemo, file: Path
) -> None:
    digest = memo.sha256(file, lambda _: file.write_bytes(b"after!") and None)
    assert digest == hashlib.sha256(b"before").hexdigest()
    assert memo.sha256(file) == hashlib.sha256(b"after!").hexdigest()
