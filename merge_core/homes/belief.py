"""Which home a command uses, and whether it is believed: a home holds orders, not only data.

`MERGEFLOW_HOME`, else the nearest `.mergeflow` here or above, else `~/.mergeflow`. Owner and mode
decide. One that was found here or above can have come with a clone or an archive, whose files are
the user's own: it must also be in the list of homes that this user made or said to trust.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from merge_core.errors import HomeError
from merge_core.files.kernel_files import kernel_file_system
from merge_core.files.owners import (
    Way,
    group_named,
    has_group_to_itself,
    is_roots,
    is_unmapped,
    sees_owners,
    user_named,
    way_to,
)
from merge_core.files.private import make_private_directory, write_private
from merge_core.homes.closing import close_home, closing_word, is_home
from merge_core.homes.known import note_home, note_move, place_of, standing
from merge_core.homes.store_access import StoreAccess

NAME = ".mergeflow"
_log = logging.getLogger("mergeflow.home")
_said: set[str] = set()


class How(Enum):
    """How a home was found."""

    NAMED = "named by MERGEFLOW_HOME"
    ABOVE = "found here or above"
    USERS = "the user's own"


@dataclass(frozen=True)
class Found:
    """A home before anything of it is read."""

    path: Path
    how: How


def find_home() -> Found:
    """The home that the environment and the current directory lead to; it may be missing.

    Raises:
        HomeError: nothing names one, and this user has no directory.
    """
    named = os.environ.get("MERGEFLOW_HOME")
    if named:
        return Found(_expanded(named), How.NAMED)
    users = _users_own()
    for directory in _here_and_above():
        place = directory / NAME
        if _is_directory(place):
            if users is not None and place_of(place) == place_of(users):
                return Found(users, How.USERS)
            return Found(place, How.ABOVE)
    if users is None:
        raise HomeError(
            "this user has no directory to keep a home in",
            mend="set MERGEFLOW_HOME to a directory of its own",
        )
    return Found(users, How.USERS)


def believe(found: Found, *, make: bool = True) -> None:
    """Make sure that a home is the user's, close it to others, and make it if it is missing.

    What was done or is not guarded is said in the log `mergeflow.home`, once a process.

    Args:
        make: whether a missing home is made.

    Raises:
        HomeError: it is not believed, or cannot be made; nothing of it was read.
        RecipeError: its stack.yaml cannot be read.
    """
    with _explained(found.path):
        if os.path.lexists(found.path):
            _judge(found)
            _look_after(found)
        elif make:
            make_home(found.path)
            _judge(found)
        else:
            _refuse_the_kernels(found.path)


def trust_home(path: Path) -> None:
    """Put a home into the list, so that it is believed where it is found.

    Raises:
        HomeError: it is another user's, or is no home, or the list cannot be written.
    """
    if not os.path.lexists(path):
        raise HomeError(
            "there is no home here to trust",
            where=str(path),
            mend=f"to make one: mergeflow home create {_quoted(path)}",
        )
    found = Found(path.absolute(), How.NAMED)
    with _explained(path):
        _judge(found)
        if not is_home(path):
            inside = path / NAME
            raise HomeError(
                "this directory is no home",
                where=str(path),
                mend=f"mergeflow home trust {_quoted(inside)}"
                if inside.is_dir()
                else "name the directory that MERGEFLOW_HOME would name",
            )
        _look_after(found)
        note_home(found.path)


def make_home(path: Path) -> None:
    """Make a home that only its owner can enter, and put it into the list.

    Raises:
        HomeError: it cannot be made, or belongs to somebody else then.
    """
    try:
        _refuse_the_kernels(path)
        make_private_directory(path)
        owner = path.stat().st_uid
        if owner != os.geteuid():
            raise _of_another(path, owner)
        # Whoever adds the project around it to git shall not publish its identity and passwords.
        write_private(path / ".gitignore", "*\n")
    except OSError as error:
        raise HomeError(
            f"a home cannot be made here: {error.strerror}",
            where=str(path),
            mend="set MERGEFLOW_HOME to a directory that you may write",
        ) from error
    _note(path)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HomeError(
            f"this home cannot be used: {error.strerror}",
            where=str(error.filename or path),
            mend="see that you may read and write it, or name another: MERGEFLOW_HOME=PATH",
        ) from error


def _note(path: Path) -> None:
    try:
        note_home(path)
    except (OSError, HomeError) as error:
        _say(
            f"{path} could not be put into the list of your homes ({error}): it is believed where"
            " MERGEFLOW_HOME names it"
        )


def _judge(found: Found) -> None:
    """Refuse a home that is not the user's, before anything in it is read."""
    path = found.path
    if not sees_owners():
        raise HomeError(
            "in this user namespace every file seems to have the same owner, so that nobody can say"
            " whose this home is",
            where=str(path),
            mend="run the container with a user that it knows, for instance as root in it",
        )
    *above, home = way_to(path)
    _refuse_the_kernels(path)
    if not stat.S_ISDIR(home.status.st_mode):
        raise HomeError(
            "this is no directory", where=str(path), mend="set MERGEFLOW_HOME to a directory"
        )
    if home.status.st_uid != os.geteuid():
        raise _of_another(path, home.status.st_uid)
    if found.how is How.ABOVE:
        _judge_standing(path)
    for way in above:
        if way.is_link:
            _judge_link(path, way)
        else:
            _judge_parent(found, way)


def _refuse_the_kernels(path: Path) -> None:
    found = kernel_file_system(path)
    if found:
        raise HomeError(
            f"a home cannot be kept here: this is the kernel's own file system {found}, whose files"
            " are not on any disk",
            where=str(path),
            mend="name a directory on a disk, which is made if it is missing: MERGEFLOW_HOME=PATH",
        )


def _judge_link(path: Path, way: Way) -> None:
    owner = way.status.st_uid
    if owner != os.geteuid() and not is_roots(owner):
        raise HomeError(
            f"the way to this home leads through the link {way.path} of {user_named(owner)}, who"
            " can let it lead elsewhere",
            where=str(path),
            mend=f"look where it leads, and name that: MERGEFLOW_HOME={_quoted(path.resolve())}",
        )


def _judge_parent(found: Found, way: Way) -> None:
    """Whoever may write to a directory above can put another in the home's place."""
    status, me = way.status, os.geteuid()
    if status.st_mode & stat.S_ISVTX and (status.st_uid == me or is_roots(status.st_uid)):
        return
    shown = _quoted(way.path)
    if status.st_mode & stat.S_IWOTH:
        who, mend, harmless = "every user of this machine", f"chmod o-w {shown}", False
    elif status.st_mode & stat.S_IWGRP:
        if status.st_uid == me and has_group_to_itself(me, status.st_gid):
            return
        who, mend = f"the group {group_named(status.st_gid)}", f"chmod g-w {shown}"
        harmless = me in (0, status.st_uid)  # nobody of a group can put something of root's there
    else:
        return
    said = f"{who} may write to {way.path} above it, and put something else in its place"
    if harmless or found.how is not How.ABOVE:
        _say(f"{found.path}: {said}; to prevent that: {mend}")
        return
    raise HomeError(
        f"this home is not believed where it was found: {said}",
        where=str(found.path),
        mend=f"{mend}, or name the home if you are sure of it:"
        f" MERGEFLOW_HOME={_quoted(found.path)}",
    )


def _judge_standing(path: Path) -> None:
    found = standing(path)
    if found.known:
        _note_move(path, found.moved_from)
        return
    if found.replaced:
        what = "this home is another than the one that was here and is in the list of your homes"
    elif found.moved_from is not None:
        what = f"this home is a copy of {found.moved_from}, or was moved from there"
    else:
        what = (
            "this home is not in the list of your homes: it may have come with the files around it"
        )
    raise HomeError(
        f"{what}. A home gives orders (which servers are used, what is cached), so nothing of it"
        " was read",
        where=str(path),
        mend="name another home with MERGEFLOW_HOME; or, if this one is yours, run once: mergeflow"
        f" home trust {_quoted(path)}",
    )


def _note_move(path: Path, former: str | None) -> None:
    if former is not None:
        note_move(path, former)
        _say(f"{path} was moved here from {former}, and is noted in the list of homes")


def _look_after(found: Found) -> None:
    """Close a believed home to others, open its store as its setting says, note a new one."""
    path = found.path
    if found.how is not How.ABOVE:
        with contextlib.suppress(HomeError, OSError):  # it is believed without the list
            listed = standing(path)
            _note_move(path, listed.moved_from if listed.known else None)
    closed = close_home(path, lambda: StoreAccess.of(path).group)
    if closed is not None:
        _say(closing_word(path, closed))
    StoreAccess.of(path).settle()
    if found.how is not How.ABOVE and next(path.iterdir(), None) is None:
        make_home(path)


def _of_another(path: Path, owner: int) -> HomeError:
    me = os.geteuid()
    own = "name a home of your own, which is made if it is missing: MERGEFLOW_HOME=PATH"
    if is_unmapped(owner):
        return HomeError(
            f"the owner of this home cannot be seen from here ({user_named(owner)} stands for him):"
            " a container's user namespace, or root on a network file system",
            where=str(path),
            mend=f"work as its owner, or {own}",
        )
    if me == 0 and os.environ.get("SUDO_UID") == str(owner):
        own = f"run the command without sudo, or {own}"
    else:
        own = f"work as {user_named(owner)}, or {own}"
    return HomeError(
        f"this home belongs to {user_named(owner)}, and this is {user_named(me)}; nothing of it was"
        " read",
        where=str(path),
        mend=own,
    )


def _here_and_above() -> list[Path]:
    try:
        here = Path.cwd()
    except FileNotFoundError:  # removed meanwhile
        return []
    return [here, *here.parents]


def _users_own() -> Path | None:
    try:
        return Path.home() / NAME
    except RuntimeError:
        return None


def _expanded(named: str) -> Path:
    try:
        return Path(named).expanduser().absolute()
    except RuntimeError:
        raise HomeError(
            "there is no such user", where=f"MERGEFLOW_HOME={named}", mend="write the whole path"
        ) from None


def _is_directory(path: Path) -> bool:
    """Whether a directory is there; also one that this user may not look at, which is refused."""
    try:
        return path.is_dir()
    except PermissionError:
        return os.path.lexists(path)


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _say(word: str) -> None:
    if word not in _said:
        _said.add(word)
        _log.warning("%s", word)
