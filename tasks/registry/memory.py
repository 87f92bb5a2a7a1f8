"""Which registries used this home's store: noted before each registration, for good.

`registries.json` in the home. A database is known by its oldest experiment of ours and the moment
this was created, so that an emptied one, or another one at the same address, is not taken for it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from pydantic import ValidationError

from merge_core.errors import MergeflowError, OutputError, did_you_mean
from merge_core.files.locks import held, lock_file
from merge_core.files.private import make_private_directory, write_private
from merge_core.homes.home import Home
from merge_core.output.working_directory import read_plain
from merge_core.records import Record
from tasks.registry.absent import none_if_absent
from tasks.registry.client import Registry, is_server, strip_credentials
from tasks.registry.past_averages import averages_of
from tasks.servers.stack_record import running_stack

EMBEDDED = "embedded"
"""Address of the SQLite database in the home itself, wherever the home is moved to."""
STACK = "stack"
"""Address of the database that the home's `stack.yaml` names; its server is `mergeflow up`."""

_log = logging.getLogger("mergeflow")

_SQLITE = "sqlite:///"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_PORTS = {"http": 80, "https": 443}


class KnownRegistry(Record):
    """A registry that used the store."""

    address: str
    """Without credentials; `embedded` and `stack` are the home's own."""
    experiment: str | None = None
    """An experiment that its database had when it was noted."""
    created: int | None = None
    """When that experiment was created, in milliseconds since the epoch."""
    noted: str = ""
    """When it was noted first, ISO 8601."""
    forgotten: bool = False
    """A person said that it counts no more."""


def known_registries(home: Home) -> list[KnownRegistry]:
    """Every registry that is known to have used the store, and counts.

    Homes from before this was noted tell by the records of their averages alone.

    Raises:
        MergeflowError: the note is damaged.
    """
    noted = _read(home)
    heard = {each.address for each in noted}
    found = [each for each in noted if not each.forgotten]
    for address in _of_averages(home):
        if address not in heard:
            heard.add(address)
            found.append(KnownRegistry(address=address))
    own = [EMBEDDED] if embedded_database(home).exists() else []
    own += [STACK] if home.names_databases else []
    found += [KnownRegistry(address=address) for address in own if address not in heard]
    return found


def began_before_notes(home: Home) -> bool:
    """Whether the home has a store and no note: what only pipeline files name is then unknown."""
    return not _file(home).exists() and home.objects.is_dir() and any(home.objects.iterdir())


def begin_notes(home: Home) -> None:
    """Write the note of a home that has none."""
    with _changing(home) as noted:
        _write(home, noted)


def note_registry(
    home: Home,
    tracking_uri: str,
    registry: Registry | None = None,
    experiment_id: str | None = None,
) -> None:
    """Remember that a registry uses the store. Says nothing new of one that is known.

    Args:
        registry: an open connection to it, to recognise its database later.
        experiment_id: an experiment in it, by which this is done.

    Raises:
        OutputError: it cannot be written down.
        MergeflowError: the note is damaged.
    """
    address = canonical(home, tracking_uri)
    noted = [each for each in _read(home) if each.address == address and not each.forgotten]
    created = _created(registry, experiment_id) if registry and experiment_id else None
    if created is None:
        if noted:
            return
    elif registry and any(each.experiment and is_same(registry, each) for each in noted):
        return
    fresh = KnownRegistry(
        address=address,
        experiment=experiment_id if created is not None else None,
        created=created,
        noted=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    with _changing(home) as all_noted:
        others = [each for each in all_noted if each.address != address or _tells_more(each)]
        _write(home, [*others, fresh])


def note_store_of(
    directory: str,
    tracking_uri: str,
    registry: Registry | None = None,
    experiment_id: str | None = None,
) -> None:
    """Remember a registry in the home whose store a checkpoint is in, if it is in one.

    Another user's home is left alone, with a word in the log: nobody writes there but its owner.

    Raises:
        OutputError: that home is one's own and cannot be written.
        MergeflowError: its note is damaged.
    """
    for home in _homes_around(Path(directory)):
        owner, user = home.path.stat().st_uid, os.geteuid()
        if user in (owner, 0):
            note_registry(home, tracking_uri, registry, experiment_id)
        else:
            _log.warning(
                "%s is another user's, and `mergeflow gc` there does not learn of this use of its"
                " store: its owner should name %s once with --tracking-uri",
                home.path,
                strip_credentials(tracking_uri),
            )


def forget_registry(home: Home, address: str) -> None:
    """Let a registry count no more, until something is registered there again.

    Raises:
        MergeflowError: no such registry is known.
    """
    wanted = address if address in (EMBEDDED, STACK) else canonical(home, address)
    known = [each.address for each in known_registries(home)]
    if wanted not in known:
        raise MergeflowError(
            "this store is not known to have been used by such a registry",
            where=strip_credentials(address),
            mend=did_you_mean(wanted, known),
        )
    with _changing(home) as noted:
        others = [each for each in noted if each.address != wanted]
        _write(home, [*others, KnownRegistry(address=wanted, forgotten=True)])


def is_same(registry: Registry, noted: KnownRegistry) -> bool:
    """Whether an open registry is the one that was noted, as far as the note tells."""
    if noted.experiment is None:
        return True
    return _created(registry, noted.experiment) == noted.created


def embedded_database(home: Home) -> Path:
    """The SQLite database of a home that has no other."""
    return home.mlflow / "mlflow.db"


def canonical(home: Home, tracking_uri: str) -> str:
    """One address for a registry, however it is written; without credentials."""
    stripped = strip_credentials(tracking_uri)
    if stripped.startswith(_SQLITE):
        database = Path(stripped.removeprefix(_SQLITE).partition("?")[0]).resolve()
        is_own = database == embedded_database(home).resolve()
        return EMBEDDED if is_own else f"{_SQLITE}{database}"
    if not is_server(stripped):
        return stripped
    if _place(stripped) == _place(stack_server(home) or ""):
        return STACK if home.names_databases else EMBEDDED
    try:
        parts = urlsplit(stripped)
        name, number = parts.hostname or "", parts.port
    except ValueError:  # no address at all: whoever opens it says so
        return stripped
    host = f"[{name}]" if ":" in name else name
    port = "" if number in (None, _PORTS[parts.scheme]) else f":{number}"
    return urlunsplit((parts.scheme, host + port, parts.path.rstrip("/"), parts.query, ""))


def stack_server(home: Home) -> str | None:
    """Address of the MLflow server that `mergeflow up` runs on this home, if it does."""
    stack = running_stack(home)
    return stack.mlflow if stack is not None else None


def _homes_around(directory: Path) -> list[Home]:
    """The homes in whose stores a directory is, by its name and by its real place."""
    found = {
        place.parent.parent.resolve(): None
        for path in (directory.absolute(), directory.resolve())
        for place in path.parents
        if place.name == "objects" and place.parent.name == "store"
    }
    return [Home(path) for path in found]


def _of_averages(home: Home) -> Iterator[str]:
    """Addresses at which averages are registered, in the order of their configurations."""
    names = sorted(path.name for path in home.averages.iterdir()) if home.averages.is_dir() else []
    for name in names:
        for record in averages_of(home, name):
            if record.registered is not None:
                yield canonical(home, record.registered.tracking_uri)


def _created(registry: Registry, experiment_id: str) -> int | None:
    experiment = none_if_absent(registry.client.get_experiment, experiment_id)
    return experiment.creation_time if experiment is not None else None


def _tells_more(noted: KnownRegistry) -> bool:
    return noted.experiment is not None and not noted.forgotten


def _place(address: str) -> tuple[str, int | None]:
    """Host and port; every name of the loopback interface is one."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(address)
        host = "localhost" if parts.hostname in _LOOPBACK else parts.hostname or ""
        return host, parts.port or _PORTS.get(parts.scheme)
    return address, None


def _file(home: Home) -> Path:
    return home.path / "registries.json"


def _read(home: Home) -> list[KnownRegistry]:
    path = _file(home)
    try:
        values = json.loads(read_plain(path))
        return [KnownRegistry.model_validate(value) for value in values["registries"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise MergeflowError(
            f"the note of the registries that used this store cannot be read: {error}",
            where=str(path),
            mend='restore it from a backup; or write {"registries": [{"address": "http://..."}]}'
            " with every address that a pipeline of yours registers at",
        ) from None


def _write(home: Home, noted: list[KnownRegistry]) -> None:
    values = [each.model_dump(exclude_defaults=True) for each in noted]
    write_private(_file(home), json.dumps({"registries": values}, indent=1) + "\n")


@contextlib.contextmanager
def _changing(home: Home) -> Iterator[list[KnownRegistry]]:
    """The noted registries, locked against other processes."""
    lock = _file(home).with_suffix(".lock")
    try:
        make_private_directory(home.path)
        with held(lock_file(lock, 0o600)):
            yield _read(home)
    except OSError as error:
        raise OutputError(
            f"the registry cannot be noted here: {error.strerror}",
            where=str(_file(home)),
            mend="see that you may write there; `mergeflow gc` would not know what is served",
        ) from error
