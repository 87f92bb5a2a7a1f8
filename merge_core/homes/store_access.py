"""Rights to read the store: for its owner alone, or for a serving account's group too.

`store: {group: NAME}` in the home's stack.yaml opens published checkpoints to that group, for
reading, and nothing else: it may pass through the home (0710) and its store (0710), list and read
`store/objects`, and that is all. Without the setting everything is its owner's alone.
"""

from __future__ import annotations

import errno
import grp
import logging
import os
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge_core.errors import HomeError, did_you_mean
from merge_core.files.owners import group_named, user_named, way_to
from merge_core.files.private import make_private_directory
from merge_core.files.strict_yaml import load_yaml
from merge_core.homes.closing import close_entries

_log = logging.getLogger("mergeflow.home")

PASSABLE = stat.S_IRWXU | stat.S_IXGRP
"""0710: through it, to names that are known."""
_LISTABLE = stat.S_IRWXU | stat.S_IRGRP | stat.S_IXGRP
"""0750."""


@dataclass(frozen=True)
class StoreAccess:
    """The rights to read the published checkpoints of one home."""

    home: Path
    group: int | None
    """A group's number; None: nobody but the owner."""

    @classmethod
    def of(cls, home: Path) -> StoreAccess:
        """What the home's stack.yaml says.

        Raises:
            HomeError: it names no group that there is.
            RecipeError: it cannot be read.
        """
        file = home / "stack.yaml"
        if not file.exists():
            return cls(home, None)
        return cls(home, _group(load_yaml(file).get("store"), file))

    def seal(self, path: Path) -> None:
        """Make a published file or directory readable to whom it is for, and to nobody else.

        Rights of the owner stay as they are. Links are left alone.

        Raises:
            HomeError: the group cannot be given to it.
            OSError: it cannot be changed.
        """
        status = path.lstat()
        if not stat.S_ISLNK(status.st_mode):
            self._give(path, status, self._mode(status))

    def settle(self) -> None:
        """Bring the whole home to what the setting says; costs next to nothing when it is so.

        Raises:
            HomeError: the group cannot be given to the store.
            OSError: something cannot be looked at or changed.
        """
        if self.group is None or not self.home.is_dir():
            return
        store = self.home / "store"
        objects = store / "objects"
        make_private_directory(objects)
        # Before anybody is let in: a name is enough for whoever may pass.
        close_entries(self.home, but="store")
        close_entries(store, but="objects")
        opened = sum(self._open(each) for each in objects.iterdir())
        is_new = not self._is(self.home, PASSABLE)
        self._set(objects, _LISTABLE)
        self._set(store, PASSABLE)
        self._set(self.home, PASSABLE)
        if is_new or opened:
            _log.warning(
                "%s: %s may read its store; %d published checkpoints were opened, and nothing"
                " else%s",
                self.home,
                group_named(self.group),
                opened,
                self._in_the_way(),
            )

    def _open(self, published: Path) -> bool:
        """Open one checkpoint, its directory last, by which it is known to be open; whether that
        had to be done."""
        status = published.lstat()
        is_open = status.st_gid == self.group and stat.S_IMODE(status.st_mode) == self._mode(status)
        if is_open or not stat.S_ISDIR(status.st_mode):
            return False
        for place, directories, files in os.walk(published, topdown=False):
            for name in (*files, *directories):
                self.seal(Path(place) / name)
        self.seal(published)
        return True

    def _mode(self, status: os.stat_result) -> int:
        """The owner's rights as they are, and of them what the group has: never to write."""
        owners = stat.S_IMODE(status.st_mode) & stat.S_IRWXU
        return owners if self.group is None else owners | (owners & ~stat.S_IWUSR) >> 3

    def _is(self, path: Path, mode: int) -> bool:
        status = path.stat()
        return status.st_gid == self.group and stat.S_IMODE(status.st_mode) == mode

    def _set(self, path: Path, mode: int) -> None:
        if not self._is(path, mode):
            self._give(path, path.stat(), mode)

    def _give(self, path: Path, status: os.stat_result, mode: int) -> None:
        if self.group is not None and status.st_gid != self.group:
            try:
                os.chown(path, -1, self.group, follow_symlinks=False)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EINVAL):
                    raise
                raise _no_member(self.home, self.group) from error
        if stat.S_IMODE(status.st_mode) != mode:
            path.chmod(mode)

    def _in_the_way(self) -> str:
        """A directory above the home that the group cannot pass."""
        for way in list(way_to(self.home))[:-1]:
            mode, group = way.status.st_mode, way.status.st_gid
            passes = stat.S_IXGRP if group == self.group else stat.S_IXOTH
            if not way.is_link and not mode & passes:
                return (
                    f"; but it may not pass {way.path} yet: chmod o+x {shlex.quote(str(way.path))}"
                )
        return ""


def _group(store: Any, file: Path) -> int | None:
    if store is None:
        return None
    where = f"{file}: store"
    if not isinstance(store, dict) or set(store) != {"group"}:
        raise HomeError("says who may read the store", where=where, mend="write {group: NAME}")
    named = store["group"]
    if isinstance(named, int) and not isinstance(named, bool) and 0 <= named < 2**32 - 1:
        return named
    try:
        return grp.getgrnam(str(named)).gr_gid
    except KeyError:
        names = [group.gr_name for group in grp.getgrall()]
        raise HomeError(
            f"there is no group '{named}' on this machine; {did_you_mean(str(named), names)}",
            where=f"{where}.group",
            mend="name one that `getent group` lists, or its number; without `store` nobody else"
            " can read it",
        ) from None


def _no_member(home: Path, group: int) -> HomeError:
    name = shlex.quote(group_named(group).partition(" ")[0])
    return HomeError(
        f"{user_named(os.geteuid())} may not give files to the group {group_named(group)}, being no"
        " member of it",
        where=f"{home / 'stack.yaml'}: store.group",
        mend=f"have an administrator add you (sudo usermod -aG {name} NAME) and log in again, or"
        " name a group that `id` lists",
    )
