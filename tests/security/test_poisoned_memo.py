"""A digest memo that says what an attacker wants: it saves time, and vouches for nothing."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from merge_core.checkpoints.sources import describe_source
from merge_core.errors import CheckpointError
from merge_core.files.digests import DigestMemo, fingerprint, sha256_file
from merge_core.records import CheckpointManifest, SourceCheckpoint
from merge_core.store.objects import object_problems
from merge_core.store.vouching import confirm
from tests.support.edited_objects import contents, flip, loosen

if TYPE_CHECKING:
    from tests.support.attacked_store import Merges

pytest_plugins = ["tests.support.attacked_store"]

WEIGHTS = "model-00001-of-00004.safetensors"


def plant(memo: Path, path: Path, digest: str) -> None:
    """A row that says of a file, as it is now, that it has this digest."""
    with sqlite3.connect(memo) as database:
        row = (str(path), fingerprint(path), digest)
        database.execute("INSERT OR REPLACE INTO digests VALUES (?, ?, ?)", row)


@pytest.fixture
def poisoned(merges: Merges, first: CheckpointManifest, sound: dict[str, str]) -> Path:
    """The memo of a home in which an edited weight file is known as the sound one."""
    weights = merges.place(first) / WEIGHTS
    loosen(weights.parent)
    flip(weights)
    DigestMemo(merges.home.digest_memo)
    plant(merges.home.digest_memo, weights, sound[WEIGHTS])
    assert DigestMemo(merges.home.digest_memo).sha256(weights) == sound[WEIGHTS]
    return merges.home.digest_memo


def test_a_planted_row_does_not_vouch_for_what_is_evaluated_or_served(
    merges: Merges, first: CheckpointManifest, poisoned: Path
) -> None:
    memo = DigestMemo(poisoned)
    assert object_problems(merges.place(first), memo) == [], "at a glance it is believed"
    with pytest.raises(CheckpointError, match="has changed"):
        confirm(first.as_source(), memo)


def test_a_planted_row_does_not_vouch_for_an_input_of_what_is_stored(
    merges: Merges, zoo: dict[str, SourceCheckpoint], tmp_path: Path
) -> None:
    place = Path(shutil.copytree(zoo["a"].directory, tmp_path / "a"))
    memo, weights = merges.home.digest_memo, place / "model.safetensors"
    known = DigestMemo(memo).sha256(weights)
    flip(weights)
    plant(memo, weights, known)
    merges.zoo = {**zoo, "a": describe_source("a", place, DigestMemo(memo))}
    assert merges.zoo["a"].digest == zoo["a"].digest, "at a glance it is believed"
    with pytest.raises(CheckpointError, match="has changed since the merge began") as refused:
        merges.merge(0.3)
    assert str(weights) in str(refused.value)
    assert describe_source("a", place, DigestMemo(memo)).digest != zoo["a"].digest
    merges.zoo = {**zoo, "a": describe_source("a", place, DigestMemo(memo))}
    assert merges.merge(0.3).inputs[0].digest == merges.zoo["a"].digest


def test_what_a_careful_look_found_is_remembered_and_the_same_merge_mends_it(
    merges: Merges,
    first: CheckpointManifest,
    sound: dict[str, str],
    poisoned: Path,
    told: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(CheckpointError):
        confirm(first.as_source(), DigestMemo(poisoned))
    assert merges.merge().object_id == first.object_id
    assert contents(merges.place(first)) == sound
    assert first.object_id in told.text


@pytest.mark.parametrize(
    "planted",
    [
        "CREATE TRIGGER t AFTER INSERT ON digests BEGIN UPDATE digests SET sha256 = '{0}'; END",
        "ALTER TABLE digests RENAME TO kept; CREATE VIEW digests AS"
        " SELECT path, fingerprint, '{0}' AS sha256 FROM kept",
        "DROP TABLE digests; CREATE TABLE digests"
        " (path TEXT, fingerprint TEXT, sha256 TEXT GENERATED ALWAYS AS ('{0}'))",
        "CREATE TABLE more (x)",
    ],
    ids=["trigger", "view", "generated column", "another table"],
)
def test_a_memo_that_answers_by_itself_is_not_asked(
    planted: str, merges: Merges, first: CheckpointManifest, told: pytest.LogCaptureFixture
) -> None:
    path, file = merges.home.digest_memo, merges.place(first) / WEIGHTS
    DigestMemo(path).sha256(file)
    with sqlite3.connect(path) as database:
        database.executescript(planted.format("0" * 64))
    assert DigestMemo(path).sha256(file) == sha256_file(file)
    assert DigestMemo(path).sha256(file) == sha256_file(file)
    assert f"{path} is not as mergeflow makes it: remove it" in told.text


@pytest.mark.parametrize("digest", ["", "0" * 63, "F" * 64, "0" * 64 + "\n", "$(reboot)"])
def test_a_row_that_holds_no_digest_is_not_one(digest: str, merges: Merges, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    memo = DigestMemo(merges.home.digest_memo)
    plant(merges.home.digest_memo, file, digest)
    assert memo.sha256(file) == sha256_file(file)


def test_a_change_within_the_same_tick_of_the_clock_is_seen(tmp_path: Path) -> None:
    memo, file = DigestMemo(tmp_path / "memo"), tmp_path / "file"
    same_tick = 0
    for number in range(12):
        file.write_bytes(b"%04d" % number)
        os.utime(file, ns=(0, 0))
        before = fingerprint(file)
        assert memo.sha256(file) == sha256_file(file), number
        file.write_bytes(b"%04d" % (number + 5000))
        os.utime(file, ns=(0, 0))
        same_tick += fingerprint(file) == before
        assert memo.sha256(file) == sha256_file(file), number
    assert same_tick == 0, "the memo waited for the clock before it read"


def test_a_file_whose_times_are_whole_seconds_is_not_remembered_in_the_second_of_its_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from merge_core.files import digests

    real = os.stat

    class Coarse:
        """What a file system says that keeps times to the second."""

        def __init__(self, status: os.stat_result) -> None:
            self.st_size, self.st_dev, self.st_ino = status.st_size, status.st_dev, status.st_ino
            self.st_mtime_ns = status.st_mtime_ns // 10**9 * 10**9
            self.st_ctime_ns = status.st_ctime_ns // 10**9 * 10**9

    monkeypatch.setattr(digests, "_status", lambda path: Coarse(real(path)))
    memo, file = DigestMemo(tmp_path / "memo"), tmp_path / "file"
    while time.time() % 1 > 0.5:  # both writes fall into one second
        time.sleep(0.05)
    file.write_bytes(b"before")
    time.sleep(0.05)
    memo.sha256(file)
    file.write_bytes(b"after!")
    assert memo.sha256(file) == sha256_file(file)


def test_a_digest_that_was_taken_while_merging_is_not_kept_for_a_file_that_was_written_to_since(
    merges: Merges, monkeypatch: pytest.MonkeyPatch
) -> None:
    from merge_core.homes.store_access import StoreAccess
    from merge_core.output.staging import Staging

    real = Staging.make_read_only

    def written_to(self: Staging, sealed: dict[str, str], access: StoreAccess) -> dict[str, str]:
        path = self.checkpoint / WEIGHTS
        times = path.stat()
        flip(path)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        return real(self, sealed, access)

    with monkeypatch.context() as patch:
        patch.setattr(Staging, "make_read_only", written_to)
        bad = merges.merge(0.9)
    place = merges.place(bad)
    assert object_problems(place, DigestMemo(merges.home.digest_memo)) == [f"{WEIGHTS} has changed"]
    good = merges.merge(0.9)
    assert object_problems(place, DigestMemo(None)) == []
    assert good.object_id == bad.object_id
