"""File digests that are remembered, and files that change while they are hashed."""

from __future__ import annotations

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from merge_core.files import digests
from merge_core.files.digests import DigestMemo, fingerprint, sha256_file
from merge_core.files.hashing import hash_files
from merge_core.progress import ProgressEvent


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


def test_a_file_whose_old_times_were_given_back_to_it_is_hashed_again(
    memo: DigestMemo, file: Path
) -> None:
    memo.sha256(file)
    file.write_bytes(b"after!")
    os.utime(file, (0, 0))
    assert memo.sha256(file) == hashlib.sha256(b"after!").hexdigest()


def test_a_name_that_is_not_text_is_remembered(memo: DigestMemo, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"model\xff.safetensors")
    path.write_bytes(b"weights")
    memo.remember(path, "0" * 64, fingerprint(path))
    assert memo.sha256(path) == "0" * 64


def test_a_file_that_changes_while_it_is_hashed_is_not_remembered(
    memo: DigestMemo, file: Path
) -> None:
    digest = memo.sha256(file, lambda _: file.write_bytes(b"after!") and None)
    assert digest == hashlib.sha256(b"before").hexdigest()
    assert memo.sha256(file) == hashlib.sha256(b"after!").hexdigest()


def test_who_wants_the_digest_of_a_file_that_is_being_hashed_waits_for_it(
    memo: DigestMemo, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def slowly(path: Path, listener: object = None) -> str:
        read.append(path)
        time.sleep(0.2)
        return sha256_file(path)

    monkeypatch.setattr(digests, "sha256_file", slowly)
    other = DigestMemo(tmp_path / "home" / "digests.db")
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda one: one.sha256(file), [memo, other, memo, other]))
    assert found == {hashlib.sha256(b"before").hexdigest()}
    assert read == [file]


def test_who_interrupts_hashing_does_not_wait_for_its_end(memo: DigestMemo, tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.safetensors" for name in "ab"]
    for path in paths:
        with path.open("wb") as file:
            file.truncate(60_000_000_000)  # takes no room, and a minute

    interrupts = iter([KeyboardInterrupt])  # one thread only is told directly

    def interrupt(event: ProgressEvent) -> None:
        for error in interrupts:
            raise error

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        hash_files(tmp_path, paths, memo, "hash", interrupt)
    assert time.monotonic() - started < 15
