"""Checkpoints in the store that were edited with every sum put right, swapped, copied, redirected.

Most attacks leave a store in which `sha256sum -c` is content. The next merge of the same plan has
to come to the right bytes, and to name what it found.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from merge_core.records import CheckpointManifest
from tests.support.edited_objects import (
    MANIFEST,
    SUMS,
    contents,
    flip,
    loosen,
    pointer,
    reseal,
    sha256,
    write_sums,
)

if TYPE_CHECKING:
    from tests.support.attacked_store import Merges

pytest_plugins = ["tests.support.attacked_store"]

WEIGHTS = "model-00001-of-00004.safetensors"


def assert_rebuilt(
    merges: Merges, first: CheckpointManifest, sound: dict[str, str], told: str | None, log: str
) -> None:
    """The object is what it was, in its place; where it was not, a person was told so."""
    place = merges.place(first)
    assert contents(place) == sound
    assert pointer(merges.home, first.plan_digest).read_text() == f"{first.object_id}\n"
    assert told is None or told in log, log


def test_weights_manifest_and_sums_that_were_edited_together_are_merged_again(
    merges: Merges, first: CheckpointManifest, sound: dict[str, str], told: pytest.LogCaptureFixture
) -> None:
    place = merges.place(first)
    loosen(place)
    flip(place / WEIGHTS)
    reseal(place)
    edited = contents(place)

    assert merges.merge() == first.model_copy(update={"path": str(place)})

    assert_rebuilt(merges, first, sound, first.object_id, told.text)
    [aside] = (merges.home.path / "store" / "set-aside").iterdir()
    assert contents(aside) == edited, "what was found is kept, for a person to look at"
    assert str(aside) in told.text


def test_an_object_that_was_edited_and_renamed_is_not_taken_for_the_one_on_record(
    merges: Merges, first: CheckpointManifest, sound: dict[str, str], told: pytest.LogCaptureFixture
) -> None:
    place = merges.place(first)
    loosen(place)
    flip(place / WEIGHTS)
    forged = reseal(place)
    place.rename(merges.home.objects / forged)
    pointer(merges.home, first.plan_digest).write_text(f"{forged}\n")

    assert merges.merge(record=first).object_id == first.object_id

    assert_rebuilt(merges, first, sound, forged, told.text)


@pytest.mark.parametrize(
    "change",
    [
        {"plan_digest": "0" * 64},
        {"recipe_digest": "0" * 64},
        {"method": "ties"},
        {"inputs": []},
        {"inputs": [{"reference": "a", "digest": "0" * 64, "role": "model"}] * 2},
    ],
    ids=lambda change: "-".join(change),
)
def test_an_object_of_another_plan_recipe_or_input_is_not_the_result_of_this_one(
    merges: Merges,
    first: CheckpointManifest,
    sound: dict[str, str],
    change: dict[str, object],
    told: pytest.LogCaptureFixture,
) -> None:
    place = merges.place(first)
    loosen(place)
    forged = reseal(place, **change)
    place.rename(merges.home.objects / forged)
    pointer(merges.home, first.plan_digest).write_text(f"{forged}\n")

    assert merges.merge().object_id == first.object_id

    assert_rebuilt(merges, first, sound, forged, told.text)


def test_a_pointer_that_was_swapped_for_another_objects_is_set_right(
    merges: Merges,
    first: CheckpointManifest,
    other: CheckpointManifest,
    sound: dict[str, str],
    told: pytest.LogCaptureFixture,
) -> None:
    untouched = contents(merges.place(other))
    pointer(merges.home, first.plan_digest).write_text(f"{other.object_id}\n")

    assert merges.merge().object_id == first.object_id

    assert_rebuilt(merges, first, sound, other.object_id, told.text)
    assert contents(merges.place(other)) == untouched, "that object is whole, and stays"
    assert merges.merge(0.7).object_id == other.object_id, "two plans lead to two objects"


def outside(merges: Merges, first: CheckpointManifest) -> Path:
    """A forged object in a place outside of the store."""
    place = merges.home.path.parent / "outside"
    shutil.copytree(merges.place(first), place)
    loosen(place)
    flip(place / WEIGHTS)
    reseal(place)
    return place


@pytest.mark.parametrize(
    "written",
    [
        "{outside}\n",
        "../../../outside\n",
        "{id}/../../../../outside\n",
        "{id}\n{id}\n",
        "",
        "\n",
        "../plans\n",
        "{id}\0\n",
        "\x1b[2J{id}\n",
        "no such thing\n",
    ],
)
def test_a_pointer_that_names_no_object_leads_nowhere(
    merges: Merges,
    first: CheckpointManifest,
    sound: dict[str, str],
    written: str,
    told: pytest.LogCaptureFixture,
) -> None:
    place = outside(merges, first)
    file = pointer(merges.home, first.plan_digest)
    file.write_text(written.format(outside=place, id=first.object_id))

    assert merges.merge().path == str(merges.place(first))

    assert_rebuilt(merges, first, sound, first.plan_digest, told.text)


@pytest.mark.parametrize("kind", ["link", "fifo", "huge"])
def test_a_pointer_that_is_no_plain_small_file_is_not_read(
    merges: Merges, first: CheckpointManifest, sound: dict[str, str], kind: str
) -> None:
    file, victim = pointer(merges.home, first.plan_digest), merges.home.path.parent / "victim"
    file.unlink()
    if kind == "link":
        victim.write_text(f"{'0' * 64}\n")
        file.symlink_to(victim)
        file.with_name(f"{file.name}.new").symlink_to(victim)
    elif kind == "fifo":
        os.mkfifo(file)
    else:
        with file.open("wb") as big:
            big.truncate(1 << 33)

    assert merges.merge().object_id == first.object_id

    assert_rebuilt(merges, first, sound, None, "")
    assert kind != "link" or victim.read_text() == f"{'0' * 64}\n", "nothing is written through it"


def swap_manifest(place: Path, other: Path) -> None:
    loosen(place)
    shutil.copyfile(other / MANIFEST, place / MANIFEST)


def swap_manifest_and_sums(place: Path, other: Path) -> None:
    swap_manifest(place, other)
    listed = {name: digest for name, digest in contents(place).items() if name != SUMS}
    write_sums(place, listed)


def take_the_others_files(place: Path, other: Path) -> None:
    loosen(place)
    shutil.rmtree(place)
    shutil.copytree(other, place)


def list_other_files(place: Path, other: Path) -> None:
    loosen(place)
    flip(place / WEIGHTS)
    listed = {name: digest for name, digest in contents(place).items() if name != SUMS}
    write_sums(place, listed)


@pytest.mark.parametrize(
    "attack", [swap_manifest, swap_manifest_and_sums, take_the_others_files, list_other_files]
)
def test_a_manifest_or_a_list_that_was_swapped_is_noticed(
    attack: Callable[[Path, Path], None],
    merges: Merges,
    first: CheckpointManifest,
    other: CheckpointManifest,
    sound: dict[str, str],
    told: pytest.LogCaptureFixture,
) -> None:
    attack(merges.place(first), merges.place(other))

    assert merges.merge().object_id == first.object_id

    assert_rebuilt(merges, first, sound, first.object_id, told.text)


def test_an_object_that_was_copied_under_another_id_is_not_found_there(
    merges: Merges, first: CheckpointManifest, sound: dict[str, str], told: pytest.LogCaptureFixture
) -> None:
    false = "f" * 64
    shutil.copytree(merges.place(first), merges.home.objects / false)
    pointer(merges.home, first.plan_digest).write_text(f"{false}\n")

    assert merges.merge().path == str(merges.place(first))

    assert_rebuilt(merges, first, sound, false, told.text)


def link_a_file(place: Path, elsewhere: Path) -> None:
    (place / WEIGHTS).rename(elsewhere)
    (place / WEIGHTS).symlink_to(elsewhere)


def link_within(place: Path, elsewhere: Path) -> None:
    (place / WEIGHTS).rename(place / ".hidden")
    (place / WEIGHTS).symlink_to(".hidden")


def share_a_file(place: Path, elsewhere: Path) -> None:
    (place / WEIGHTS).rename(elsewhere)
    (place / WEIGHTS).hardlink_to(elsewhere)


def link_the_directory(place: Path, elsewhere: Path) -> None:
    place.rename(elsewhere)
    place.symlink_to(elsewhere)


def link_the_sums(place: Path, elsewhere: Path) -> None:
    (place / SUMS).rename(elsewhere)
    (place / SUMS).symlink_to(elsewhere)


def pipe(place: Path, elsewhere: Path) -> None:
    (place / WEIGHTS).rename(elsewhere)
    os.mkfifo(place / WEIGHTS)


@pytest.mark.parametrize(
    "attack", [link_a_file, link_within, share_a_file, link_the_directory, link_the_sums, pipe]
)
def test_files_that_can_be_written_from_elsewhere_are_not_an_objects(
    attack: Callable[[Path, Path], None],
    merges: Merges,
    first: CheckpointManifest,
    sound: dict[str, str],
    told: pytest.LogCaptureFixture,
) -> None:
    place, elsewhere = merges.place(first), merges.home.path.parent / "elsewhere"
    loosen(place)
    attack(place, elsewhere)
    before = sha256(elsewhere) if elsewhere.is_file() else None

    assert merges.merge().object_id == first.object_id

    assert_rebuilt(merges, first, sound, first.object_id, told.text)
    assert not any(path.is_symlink() for path in (place, *place.iterdir()))
    assert (sha256(elsewhere) if before else None) == before, "what a link leads to is left alone"


def test_published_objects_are_read_only_and_older_ones_become_so(
    merges: Merges, first: CheckpointManifest
) -> None:
    place = merges.place(first)
    place.chmod(0o755)  # as earlier versions left it
    assert merges.merge().object_id == first.object_id
    assert {path.stat().st_mode & 0o222 for path in (place, *place.rglob("*"))} == {0}
    if os.geteuid() != 0:
        with pytest.raises(PermissionError):
            (place / "extra.py").touch()


def test_a_broken_disk_is_no_reason_to_set_an_object_aside(
    merges: Merges, first: CheckpointManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    from merge_core.errors import UnreadableError, unreadable
    from merge_core.files import digests

    def failing(path: Path, listener: object = None) -> str:
        raise unreadable(path, OSError(5, "Input/output error"))

    (merges.home.path / "digests.sqlite").unlink(missing_ok=True)
    monkeypatch.setattr(digests, "sha256_file", failing)
    with pytest.raises(UnreadableError):
        merges.merge()
    assert merges.place(first).is_dir()
    assert not (merges.home.path / "store" / "set-aside").exists()
