"""Public keys that signatures are checked by: those of the home, or those that were named."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from merge_core.errors import MergeflowError
from merge_core.files.named_file import read_named
from merge_core.files.own_files import NotOursError, read_own
from merge_core.files.owners import others_may_write
from merge_core.files.private import write_private
from merge_core.homes.home import Home
from tasks.signing.keys import (
    LONGEST_KEY,
    PRIVATE,
    PUBLIC,
    LockedKeyError,
    PublicKey,
    check_name,
    read_private_key,
    read_public_key,
)


@dataclass(frozen=True)
class Trust:
    """Keys whose signatures count."""

    keys: tuple[PublicKey, ...] = ()
    named: bool = False
    """Whether a person named them: then a signature by one of them has to be there."""
    problems: tuple[str, ...] = field(default=())
    """Why files of the home's keys are not believed."""

    @classmethod
    def of_home(cls, home: Home) -> Trust:
        """Every public key in the home's `keys`."""
        keys: list[PublicKey] = []
        problems: list[str] = []
        found = sorted(home.keys.iterdir()) if home.keys.is_dir() else []
        if found and others_may_write(home.keys.stat()):
            said = f"no key is believed: others may write to {home.keys}"
            return cls((), False, (f"{said}; `chmod 700` it, and look at what is there",))
        for path in found:
            if path.suffix == PRIVATE and not os.path.lexists(path.with_suffix(PUBLIC)):
                problems.append(_lonely(path))
            if path.suffix != PUBLIC:
                continue
            try:
                key = read_public_key(read_own(path, LONGEST_KEY), path.stem)
                if others_may_write(path.lstat()):
                    raise NotOursError("others may write it")
            except FileNotFoundError:
                continue
            except (NotOursError, ValueError) as error:
                problems.append(f"the public key {path.name} is not believed: {error}")
                continue
            problem = _private_half(path, key)
            if problem:
                problems.append(problem)
            else:
                keys.append(key)
        return cls(tuple(keys), False, tuple(problems))

    @classmethod
    def of_files(cls, paths: Iterable[Path]) -> Trust:
        """The public keys in these files.

        Raises:
            MergeflowError: one of them holds none.
        """
        return cls(tuple(map(public_key_of_file, paths)), True)

    def of_id(self, key_id: str) -> PublicKey | None:
        """The key of this id."""
        return next((key for key in self.keys if key.key_id == key_id), None)


def public_key_of_file(path: Path) -> PublicKey:
    """The public key in a file that a person names.

    Raises:
        MergeflowError: it holds none.
    """
    try:
        return read_public_key(read_named(path, LONGEST_KEY), path.stem)
    except OSError as error:
        said = f"the public key cannot be read: {error.strerror}"
    except ValueError as error:
        said = f"this is not the file of a public key: {error}"
    raise MergeflowError(
        said,
        where=str(path),
        mend="name the file NAME.pub that `mergeflow keys new` made in the home's keys/",
    )


def trust_key(home: Home, path: Path, name: str | None = None) -> PublicKey:
    """Keep somebody's public key in the home: what it signed counts from now on.

    Raises:
        MergeflowError: the file holds none, or another key has the name.
    """
    key = public_key_of_file(path)
    name = name or key.name
    check_name(name)
    place = home.keys / f"{name}{PUBLIC}"
    taken = _private_half(place, key) is not None
    if place.exists():
        known = public_key_of_file(place)
        if known.key_id == key.key_id:
            return known
        taken = True
    if taken:
        raise MergeflowError(
            f"another key is called '{name}' here",
            where=str(place),
            mend="give this one another name with --name",
        )
    write_private(place, key.pem)
    return PublicKey(key.pem, name)


def _lonely(private: Path) -> str:
    """A key that was put there by hand, or that was being made when something ended it."""
    public = shlex.quote(str(private.with_suffix(PUBLIC)))
    return (
        f"{private.name} has no public half beside it, so what it signs does not count here:"
        f" `openssl pkey -in {shlex.quote(str(private))} -pubout -out {public}` makes it"
    )


def _private_half(path: Path, key: PublicKey) -> str | None:
    """What is wrong with the private key beside a public one; None, too, where it is locked."""
    private = path.with_suffix(PRIVATE)
    if not private.exists():
        return None
    try:
        own = read_private_key(private).public.key_id == key.key_id
    except LockedKeyError:
        return None
    except MergeflowError as error:
        return f"the key {private.name} is not believed: {error.what}"
    return None if own else f"{path.name} is not the public half of {private.name}"
