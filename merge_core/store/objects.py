"""Published checkpoints: when one is believed, where it is found, what becomes of one that is not.

A checkpoint in the store lies in `objects/<object id>/`, and its id is the sha256 of its SHA256SUMS
file. `plans/<plan digest>` holds the id of a plan's result. So everything in it can be checked
against the name that it is known by; what does not agree is moved to `set-aside/` and made again.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from merge_core.errors import CheckpointError, OutputError, refused
from merge_core.files.digests import DigestMemo
from merge_core.files.private import make_private_directory, write_private
from merge_core.files.read_only import make_read_only, make_removable
from merge_core.files.sha256sums import MAX_SUMS_BYTES, SUMS_NAME, read_sums
from merge_core.files.untrusted import read_plain
from merge_core.findings import printable, some
from merge_core.homes.home import Home
from merge_core.output.manifest import read_manifest, verify_manifest
from merge_core.planning.plan import Plan, merge_inputs, plan_key
from merge_core.progress import Progress
from merge_core.recipes.recipe import Recipe
from merge_core.records import CheckpointManifest, MergeInput, SourceCheckpoint

_STORE, _OBJECTS, _PLANS = "store", "objects", "plans"
_ID = re.compile("[0-9a-f]{64}")
_LONGEST_POINTER = 4096
_log = logging.getLogger("mergeflow")


class Wanted(NamedTuple):
    """What a stored checkpoint has to be the result of."""

    plan_digest: str
    recipe_digest: str
    method: str
    inputs: tuple[MergeInput, ...]

    @classmethod
    def of(cls, plan: Plan) -> Wanted:
        """The result of a plan."""
        return cls(plan.digest, plan.recipe.digest, plan.recipe.merge_method, plan.inputs)

    @classmethod
    def of_recipe(
        cls,
        recipe: Recipe,
        sources: Mapping[str, SourceCheckpoint],
        shard_bytes: int,
        calibration: Mapping[str, SourceCheckpoint] | None = None,
    ) -> Wanted:
        """The result of the plan that `make_plan` would make of the same."""
        digest = plan_key(recipe, sources, shard_bytes, calibration)
        return cls(digest, recipe.digest, recipe.merge_method, merge_inputs(recipe, sources))

    def differences(self, manifest: CheckpointManifest) -> list[str]:
        """One sentence for each thing in which a checkpoint is the result of something else."""
        return [
            f"it is of another {field.replace('_', ' ')}"
            for field in self._fields
            if getattr(manifest, field) != getattr(self, field)
        ]


def is_object_id(name: str) -> bool:
    """Whether a name is that of an object in a store."""
    return bool(_ID.fullmatch(name))


def object_id_of(directory: Path) -> str | None:
    """The id that a directory's place in a store gives it; None for one that is in no store."""
    in_store = directory.parent.name == _OBJECTS
    return directory.name if in_store and is_object_id(directory.name) else None


def stored_place(directory: Path) -> Path | None:
    """Where in a store a directory is, also when it is named by a link from elsewhere; None for
    one that is in no store."""
    for place in (directory.absolute(), directory.resolve()):
        if object_id_of(place):
            return place
    return None


def object_problems(
    directory: Path,
    memo: DigestMemo,
    *,
    wanted: Wanted | None = None,
    said: CheckpointManifest | None = None,
    afresh: bool = False,
    progress: Progress | None = None,
) -> list[str]:
    """Why the checkpoint in this place of a store is not to be believed: nothing, when it is.

    Its id is the sha256 of its SHA256SUMS and the name of its directory; every file is listed
    there, none is more, each has the digest that is listed, no other name and no place elsewhere;
    its manifest lists the same files.

    Args:
        wanted: what it has to be the result of. The plan's pointer has to lead to it, then.
        said: a manifest, kept elsewhere, that has to say the same as its own.
        afresh: read every byte, whatever the memo says.

    Raises:
        UnreadableError: something is there, and cannot be read now.
    """
    object_id = object_id_of(directory)
    if object_id is None:
        return ["it is in no place where a store keeps checkpoints"]
    if directory.is_symlink():
        return ["it is a link"]
    if not directory.is_dir():
        return ["it is gone"]
    problems = _unsound(directory, object_id, memo, afresh, progress)
    if problems:
        return problems
    own = read_manifest(directory)
    if said is not None and without_place(said) != without_place(own):
        problems.append("its manifest says otherwise than the record of the step that made it")
    if wanted is not None:
        problems += wanted.differences(own)
        problems += _misled(directory, wanted.plan_digest, object_id)
    return problems


class Store:
    """The published checkpoints of one home."""

    def __init__(self, home: Home, memo: DigestMemo | None = None) -> None:
        self._home = home
        self._memo = memo or DigestMemo(home.digest_memo)

    def place_of(self, object_id: str) -> Path:
        """Where an object is, or would be."""
        return self._home.objects / (object_id if _ID.fullmatch(object_id) else "no-object-id")

    def here(self, manifest: CheckpointManifest) -> CheckpointManifest:
        """A manifest with its place in this store: a home may have been moved or copied since."""
        return manifest.model_copy(update={"path": str(self.place_of(manifest.object_id))})

    def problems(
        self,
        manifest: CheckpointManifest,
        wanted: Wanted | None = None,
        progress: Progress | None = None,
    ) -> list[str]:
        """Why the object that a record names is not to be believed; see `object_problems`."""
        place = self.place_of(manifest.object_id)
        problems = object_problems(
            place, self._memo, wanted=wanted, said=manifest, progress=progress
        )
        if not problems:
            make_read_only(place)  # as it was published, or as earlier versions should have
        return problems

    def find(
        self,
        wanted: Wanted,
        record: CheckpointManifest | None = None,
        progress: Progress | None = None,
    ) -> CheckpointManifest | None:
        """The result of a plan, made before, if everything says that it is that.

        What is in its place without being it is set aside. Call it with the plan's working
        directory held: what another process is about to publish would be taken for damaged.

        Args:
            record: what a step says that it made of this plan. Where the plan's pointer leads to
                another object, none of the two is believed.
        """
        leads_to = self._pointed(wanted.plan_digest)
        claims = dict.fromkeys(each for each in (record and record.object_id, leads_to) if each)
        if leads_to == "":
            _log.warning(
                "warning: in the store, the pointer of the plan %s names no object",
                wanted.plan_digest,
            )
        for object_id in claims:
            self._set_aside_if_unsound(self.place_of(object_id), progress)
        if len(claims) > 1:
            _log.warning(
                "warning: of one plan, a step made %s, and the store's pointer leads to %s: merging"
                " again",
                *claims,
            )
        found = next(iter(claims), None)
        if found is None or len(claims) > 1 or not self.place_of(found).is_dir():
            return None
        manifest = read_manifest(self.place_of(found))
        differences = wanted.differences(manifest)
        if differences:
            _log.warning(
                "warning: a pointer leads to the object %s, but %s: merging again",
                found,
                some(differences),
            )
            return None
        make_read_only(self.place_of(found))
        self.point(wanted.plan_digest, found)
        return manifest

    def point(self, plan_digest: str, object_id: str) -> None:
        """Note which object is a plan's result.

        Raises:
            OSError: the store cannot be written.
        """
        pointer = self._home.path / _STORE / _PLANS / plan_digest
        if self._pointed(plan_digest) == object_id:
            return
        write_private(pointer, object_id + "\n")

    def is_there(self, object_id: str, progress: Progress | None = None) -> bool:
        """Whether an object is in its place and sound; what is there otherwise is set aside."""
        place = self.place_of(object_id)
        self._set_aside_if_unsound(place, progress)
        return place.is_dir()

    def _set_aside_if_unsound(self, place: Path, progress: Progress | None) -> None:
        if not place.is_symlink() and not place.exists():
            return
        problems = object_problems(place, self._memo, progress=progress)
        if problems:
            moved = self.set_aside(place)
            _log.warning(
                "warning: the object %s in the store has changed: %s. It was moved to %s,"
                " for you to look at",
                place.name,
                some(problems),
                moved,
            )

    def set_aside(self, place: Path) -> Path:
        """Move something out of its place in the store, for a person to look at; where it is now.

        Of a link, the link itself.

        Raises:
            OutputError: it cannot be moved.
        """
        moved = self._home.set_aside / f"{place.name}-{secrets.token_hex(4)}"
        try:
            make_private_directory(moved.parent)
            make_removable(place)
            place.rename(moved)
        except OSError as error:
            raise OutputError(
                f"this object has changed, and cannot be moved away: {error.strerror}",
                where=str(place),
                mend="move it out of the store, and run the same command again",
            ) from error
        return moved

    def _pointed(self, plan_digest: str) -> str | None:
        return pointed(self._home.path / _STORE, plan_digest)


def listed_files(directory: Path) -> set[str]:
    """Names of all files that belong to an object, its list among them.

    Raises:
        CheckpointError: it has no usable list.
    """
    try:
        return {SUMS_NAME, *read_sums(read_plain(directory / SUMS_NAME, MAX_SUMS_BYTES))}
    except ValueError as error:
        raise CheckpointError(
            f"{SUMS_NAME} cannot be used: {printable(error)}", where=str(directory)
        ) from None


def pointer_problems(directory: Path) -> list[str]:
    """Whether the pointer of its own plan leads to a sound object; one sentence if it does not."""
    return _misled(directory, read_manifest(directory).plan_digest, directory.name)


def without_place(manifest: CheckpointManifest) -> CheckpointManifest:
    """What a manifest says of the checkpoint itself: neither its place nor what was beside it."""
    beside = manifest.taken_over.model_copy(update={"left_behind": ()})
    return manifest.model_copy(update={"path": "", "taken_over": beside})


def pointed(store: Path, plan_digest: str) -> str | None:
    """The object that a store names as a plan's result; None where nothing is written, and empty
    where something else is written than an object's id."""
    pointer = store / _PLANS / plan_digest
    if not pointer.is_symlink() and not pointer.exists():
        return None
    try:
        text = read_plain(pointer, _LONGEST_POINTER).decode("ascii", "replace")
    except CheckpointError:
        return ""
    return text[:-1] if _ID.fullmatch(text[:-1]) and text[-1] == "\n" else ""


def _unsound(
    directory: Path, object_id: str, memo: DigestMemo, afresh: bool, progress: Progress | None
) -> list[str]:
    """The problems of an object by itself, whichever plan it is the result of."""
    try:
        sums = read_plain(directory / SUMS_NAME, MAX_SUMS_BYTES)
        if hashlib.sha256(sums).hexdigest() != object_id:
            return [f"the sha256 of its {SUMS_NAME} is not its name"]
        manifest = read_manifest(directory)
        return verify_manifest(manifest, memo, alone=True, afresh=afresh, progress=progress)
    except CheckpointError as error:
        return [printable(refused(error))]


def _misled(directory: Path, plan_digest: str, object_id: str) -> list[str]:
    leads_to = pointed(directory.parent.parent, plan_digest)
    if leads_to in (None, object_id):
        return []
    return [f"the pointer of its plan leads to {leads_to or 'no object'}"]
