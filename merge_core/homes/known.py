"""The homes that this user made or said to trust: a list outside any home.

    ~/.config/mergeflow/homes        one JSON value a line: path, identity, inode
    HOME/identity                    tokens, one a line

A path alone is not believed: what stands there may have been replaced by a clone. Each entry holds
the sha256 of a random token, and the token is in the home, where nobody else can read it. A token
that came with files from elsewhere is worth nothing: it is in nobody's list but its maker's.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shlex
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from merge_core.errors import HomeError
from merge_core.files.owners import user_named
from merge_core.files.private import make_private_directory, write_private
from merge_core.homes.closing import IDENTITY

_MOST_TOKENS = 32
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class KnownHome:
    """One entry of the list."""

    path: str
    """Its parent's real path and its own name: a link to a home that is known is another home."""
    identity: str
    """sha256 of one of the home's tokens, in hex."""
    inode: int


@dataclass(frozen=True)
class Standing:
    """How a home stands in the list."""

    known: bool
    moved_from: str | None = None
    """Where the list has it, if it is known elsewhere: moved when `known`, else copied."""
    replaced: bool = False
    """The list has this path, and another home stood there."""


def list_path() -> Path:
    """`$XDG_CONFIG_HOME/mergeflow/homes`, by default `~/.config/mergeflow/homes`.

    Raises:
        HomeError: this user has no directory.
    """
    named = os.environ.get("XDG_CONFIG_HOME", "")
    try:
        config = Path(named) if named.startswith("/") else Path.home() / ".config"
    except RuntimeError:
        raise HomeError(
            "this user has no directory to keep a list of homes in",
            mend="set XDG_CONFIG_HOME, or name the home: MERGEFLOW_HOME=PATH",
        ) from None
    return config / "mergeflow" / "homes"


def place_of(home: Path) -> str:
    """What the list calls a home: the real path of its parent, and its name there."""
    if home.name in ("", ".."):
        return os.path.realpath(home)
    return os.path.join(os.path.realpath(home.parent), home.name)  # noqa: PTH118 - no name is eaten


def known_homes() -> list[KnownHome]:
    """The list; lines that make no sense are left out.

    Raises:
        HomeError: the list may have been written by somebody else.
    """
    path = list_path()
    try:
        _refuse_other_writers(path.parent, path.parent.stat())
        text = _read_own(path).decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise HomeError(
            f"the list of your homes cannot be read: {error.strerror}",
            where=str(path),
            mend="see that you may read it; meanwhile MERGEFLOW_HOME=PATH names a home",
        ) from error
    return [entry for line in text.splitlines() if (entry := _entry(line)) is not None]


def standing(home: Path) -> Standing:
    """Whether a home is in the list, and what it is if not.

    Raises:
        HomeError: the list may have been written by somebody else.
    """
    place, identities = place_of(home), {_identity(token) for token in _tokens(home)}
    entries = known_homes()
    own = [entry for entry in entries if entry.identity in identities]
    if any(entry.path == place for entry in own):
        return Standing(known=True)
    if own:
        former = own[-1]
        moved = (
            former.inode == home.stat().st_ino
            and not home.is_symlink()
            and not os.path.lexists(former.path)
        )
        return Standing(known=moved, moved_from=former.path)
    return Standing(known=False, replaced=any(entry.path == place for entry in entries))


def note_home(home: Path) -> None:
    """Put a home into the list, with a token that was in no home before.

    Raises:
        HomeError: the list may have been written by somebody else.
        OSError: the list or the home cannot be written.
    """
    place, token = place_of(home), secrets.token_hex(32)
    with _only_writer():
        kept = [entry for entry in known_homes() if entry.path != place]
        tokens = [*_tokens(home)[-_MOST_TOKENS + 1 :], token]
        write_private(home / IDENTITY, "".join(f"{each}\n" for each in tokens))
        _write([*kept, KnownHome(place, _identity(token), home.stat().st_ino)])


def note_move(home: Path, former: str) -> None:
    """Let the list have a home where it is now.

    Raises:
        HomeError, OSError: as `note_home`.
    """
    with _only_writer():
        place = place_of(home)
        entries = [entry for entry in known_homes() if entry.path != place]
        _write(
            [
                KnownHome(place, entry.identity, entry.inode) if entry.path == former else entry
                for entry in entries
            ]
        )


def forget_home(home: Path) -> bool:
    """Take a home out of the list; whether it was there.

    Raises:
        HomeError, OSError: as `note_home`.
    """
    with _only_writer():
        entries, named = known_homes(), {str(home), place_of(home)}
        kept = [entry for entry in entries if entry.path not in named]
        if len(kept) < len(entries):
            _write(kept)
        return len(kept) < len(entries)


def _write(entries: list[KnownHome]) -> None:
    write_private(list_path(), "".join(json.dumps(asdict(entry)) + "\n" for entry in entries))


@contextlib.contextmanager
def _only_writer() -> Iterator[None]:
    directory = list_path().parent
    make_private_directory(directory)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: then no turns are taken
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _entry(line: str) -> KnownHome | None:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        found = json.loads(line)
        return KnownHome(str(found["path"]), str(found["identity"]), int(found["inode"]))
    return None


def _identity(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _tokens(home: Path) -> list[str]:
    """The home's tokens; of a file that somebody else could write or owns, none."""
    try:
        text = _read_own(home / IDENTITY, linked=False).decode("ascii", "replace")
    except (OSError, HomeError):
        return []
    return [line for line in text.splitlines() if len(line) == 64][-_MOST_TOKENS:]


def _read_own(path: Path, *, linked: bool = True) -> bytes:
    """A plain file of this user's that nobody else may write."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if linked else os.O_NOFOLLOW)
    with os.fdopen(os.open(path, flags), "rb") as file:
        status = os.fstat(file.fileno())
        _refuse_other_writers(path, status)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(22, "it is no plain file", str(path))
        return file.read(_MOST_BYTES)


def _refuse_other_writers(path: Path, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        raise HomeError(
            f"the list of your homes belongs to {user_named(status.st_uid)}, and this is"
            f" {user_named(os.geteuid())}",
            where=str(path),
            mend="work as that user, or set XDG_CONFIG_HOME to a directory of your own, or name the"
            " home: MERGEFLOW_HOME=PATH",
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise HomeError(
            "other users may write the list of your homes, so it is not believed",
            where=str(path),
            mend=f"look through it, then run: chmod go-w {shlex.quote(str(path))}",
        )
