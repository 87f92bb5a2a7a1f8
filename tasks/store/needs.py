"""The items of a store that registries need; a registry without an answer stops every removal.

Texts from registries lead to the store by an object's id, by a model digest, or by a path whose
real place is in an object, however the home is reached.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from merge_core.errors import MergeflowError, OutputError, StepError
from merge_core.homes.home import Home
from tasks.registry.client import Registry, is_server, mergeflow_experiments, open_registry
from tasks.registry.memory import (
    EMBEDDED,
    STACK,
    KnownRegistry,
    canonical,
    embedded_database,
    is_same,
    known_registries,
    note_registry,
    stack_server,
)
from tasks.registry.past_averages import AverageRecord, averages_of
from tasks.registry.serving_link import served_links
from tasks.registry.versions import version_of_checkpoint
from tasks.store.served import Files, in_workspace, served_by, workspaces
from tasks.store.served_files import UnreadableFilesError, local_path, texts_in

_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_LONGEST_PATH = 4096
_ENVIRONMENT = threading.RLock()
_NAME_ANOTHER = "see that this is the address of an MLflow server, or name another one"
_CREDENTIALS = tuple(f"MLFLOW_TRACKING_{key}" for key in ("USERNAME", "PASSWORD", "TOKEN"))


class NotAskedError(StepError):
    """A registry that used the store does not tell which items it serves."""


@dataclass(frozen=True)
class Labels:
    """The names by which an item of the store can be known."""

    ids: frozenset[str]
    """Object id, model digest."""
    places: frozenset[str]
    """Its path, and its real path."""


@dataclass
class Needs:
    """The items that must stay, by id and by real path, each with the reason."""

    ids: dict[str, str] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, text: str) -> None:
        """Take in whatever a text leads to."""
        for found in _ID.findall(text):
            self.ids.setdefault(found, reason)
        if len(text) > _LONGEST_PATH or "\n" in text:
            return
        path = local_path(text.strip())
        if path is None or not path.is_absolute():
            return
        with contextlib.suppress(OSError, ValueError):  # a text that only looks like a path
            for place in {os.path.normpath(path), os.path.realpath(path)}:
                for above in (Path(place), *Path(place).parents):
                    self.places.setdefault(str(above), reason)

    def why(self, thing: Labels) -> str | None:
        """Why a thing has to stay; None when nothing known needs it."""
        found = [self.ids[label] for label in sorted(thing.ids) if label in self.ids]
        found += [self.places[place] for place in sorted(thing.places) if place in self.places]
        return found[0] if found else None

    def take(self, other: Needs) -> None:
        """Add the needs of another source, after those that are known already."""
        self.ids = other.ids | self.ids
        self.places = other.places | self.places


def ask_registries(
    home: Home,
    named: str | None,
    things: Sequence[Labels],
    *,
    foreign: Collection[str] = (),
) -> Needs:
    """Ask every registry that used the store, and one more, which items they serve.

    Args:
        named: the address of one more, which must answer too; None for none.
        things: what may be removed. Files of versions are only read where records leave some of it
            over; a registry that turns out to need some is remembered.
        foreign: `models:/NAME/VERSION` whose files need not be read: a person vouches for them.

    Raises:
        NotAskedError: one of them does not answer, refuses, is gone, or was replaced.
        MergeflowError: the home's note of them is damaged, or the named one is not to be asked.
    """
    needs, failures = Needs(), list[str]()
    files: list[tuple[str, Files]] = []
    for asked in _to_ask(home, named):
        try:
            said, found = _answer(home, asked, things)
        except MergeflowError as error:
            if not asked.noted:  # the command itself named it
                raise
            if not (asked.is_from_averages and _is_the_embedded(home, asked.address)):
                failures.append(asked.failure(error))
            continue
        needs.take(said)
        files += [(asked.uri, each) for each in found if each.version not in foreign]
    if not failures and not all(needs.why(thing) for thing in things):
        failures = _read_files(home, needs, files)
    if failures:
        raise NotAskedError(
            "nothing is removed, since not all is known that this store serves: "
            + "; ".join(failures),
            where=str(home.path),
            mend="do what is said of each, and run the same command again",
        )
    return needs


def averages_to_keep(home: Home, keep: int) -> Needs:
    """The latest averages of each configuration, kept for their own sake."""
    needs = Needs()
    for record in _latest(home, keep):
        needs.ids.setdefault(
            record.average.object_id, f"one of the last {keep} averages of {record.name}"
        )
    return needs


def links_that_serve(home: Home) -> Needs:
    """What the links in `serving/` lead to: a server may be reading it."""
    needs = Needs()
    for link in served_links(home):
        needs.add(f"{link.parent.name}/{link.name} leads to it", os.path.realpath(link))
    return needs


def _latest(home: Home, keep: int) -> Iterator[AverageRecord]:
    for name in _configurations(home):
        yield from averages_of(home, name)[:keep]


def _configurations(home: Home) -> list[str]:
    if not home.averages.is_dir():
        return []
    return sorted(path.name for path in home.averages.iterdir() if path.is_dir())


@dataclass(frozen=True)
class _Asked:
    """One registry to ask."""

    address: str
    uri: str
    """With the credentials that the environment or the command line has for it."""
    noted: tuple[KnownRegistry, ...]
    is_other: bool
    """Whether its versions are told apart from those of the one that a command names."""

    @property
    def is_from_averages(self) -> bool:
        """Whether nothing but records of averages says that it used the store."""
        own = self.address in (EMBEDDED, STACK)
        return bool(self.noted) and not own and not any(each.noted for each in self.noted)

    def failure(self, error: MergeflowError) -> str:
        """The fault and its remedy, in a clause."""
        where = "" if error.where in (None, self.address) else f" ({error.where})"
        return (
            f"{self.address}{where}: {error.what} (start it, bring it back, or give its"
            " credentials; if it is gone for good, `mergeflow gc --forget-registry"
            f" {shlex.quote(self.address)}`)"
        )


def _to_ask(home: Home, named: str | None) -> Iterator[_Asked]:
    environment = os.environ.get("MLFLOW_TRACKING_URI")
    given = {canonical(home, uri): uri for uri in (environment, named) if uri}
    wanted = canonical(home, named) if named else None
    noted: dict[str, list[KnownRegistry]] = {wanted: []} if wanted else {}
    for known in known_registries(home):
        noted.setdefault(known.address, []).append(known)
    for address, known_as in noted.items():
        uri = given.get(address, address)
        if address == EMBEDDED:
            uri = f"sqlite:///{embedded_database(home)}"
        elif address == STACK:
            uri = stack_server(home) or environment or STACK
        is_other = address not in (EMBEDDED, STACK, wanted)
        yield _Asked(address, uri, tuple(known_as), is_other)


def _answer(home: Home, asked: _Asked, things: Sequence[Labels]) -> tuple[Needs, list[Files]]:
    """As `_ask`; an answer that MLflow's client makes nothing of is an error of ours, too."""
    try:
        return _ask(home, asked, things)
    except MergeflowError:
        raise
    except Exception as error:  # of a database's driver, or about an answer that is no MLflow's
        raise StepError(
            f"what it answers is not understood ({type(error).__name__}: {str(error)[:200]})",
            where=asked.address,
            mend=_NAME_ANOTHER,
        ) from None


def _ask(home: Home, asked: _Asked, things: Sequence[Labels]) -> tuple[Needs, list[Files]]:
    """The items that the records of one registry lead to, and the files of its versions."""
    if asked.uri == STACK:
        raise MergeflowError(
            "its server is not up: start `mergeflow up`", where=str(home.stack_file)
        )
    said = Needs()
    with _credentials_for(home, asked.uri), open_registry(asked.uri) as registry:
        _check_is_mlflow(registry, asked)
        _recognise(home, registry, asked)
        found = served_by(registry)
        at = f" at {asked.address}" if asked.is_other else ""
        for who, text in found.texts:
            said.add(who + at, text)
        if any(said.why(thing) for thing in things):
            experiment = next(iter(mergeflow_experiments(registry)), "0")
            with contextlib.suppress(OutputError):  # it will be named again
                note_registry(home, asked.uri, registry, experiment)
    return said, found.files


def _check_is_mlflow(registry: Registry, asked: _Asked) -> None:
    """Refuse a server of another kind that answers everything: nothing of it would be needed.

    MLflow has an experiment from its first moment on, `Default`.
    """
    from mlflow.entities import ViewType

    if not is_server(asked.uri):
        return
    if not registry.client.search_experiments(view_type=ViewType.ALL, max_results=1):
        raise StepError(
            "it answers, but it has no experiment at all, not even the one that MLflow begins with",
            where=asked.address,
            mend=_NAME_ANOTHER,
        )


def _recognise(home: Home, registry: Registry, asked: _Asked) -> None:
    """Refuse another registry than the one that used the store."""
    for noted in asked.noted:
        if not _in_any_workspace(registry, noted):
            raise MergeflowError(
                f"it answers, but it is not the one that used this store, or has been emptied: it"
                f" has no experiment {noted.experiment} of that time",
                where=asked.address,
            )
    if asked.is_from_averages:
        records = list(_averages_at(home, asked.address))
        if not any(_holds(registry, record) for record in records):
            raise MergeflowError(
                "it answers, but it has none of the averages that were registered there",
                where=asked.address,
            )


def _in_any_workspace(registry: Registry, noted: KnownRegistry) -> bool:
    if is_same(registry, noted):
        return True
    for workspace in workspaces(registry):
        with in_workspace(workspace):
            if is_same(registry, noted):
                return True
    return False


def _is_the_embedded(home: Home, address: str) -> bool:
    """Whether a server's records are all in the home's own database: it was the MLflow server of a
    `mergeflow up` that has ended."""
    local = urlsplit(address).hostname in ("localhost", "127.0.0.1", "::1")
    if not local or not embedded_database(home).exists():
        return False
    with (
        contextlib.suppress(MergeflowError),
        open_registry(f"sqlite:///{embedded_database(home)}") as registry,
    ):
        return all(_holds(registry, record) for record in _averages_at(home, address))
    return False


def _holds(registry: Registry, record: AverageRecord) -> bool:
    """Whether a registry has the version of an average, as it is recorded."""
    place = record.registered
    made = record.average
    version = place and version_of_checkpoint(registry, place.model, made.digest, made.object_id)
    return bool(place and version and str(version.version) == place.version)


def _averages_at(home: Home, address: str) -> Iterator[AverageRecord]:
    for name in _configurations(home):
        for record in averages_of(home, name):
            place = record.registered
            if place is not None and canonical(home, place.tracking_uri) == address:
                yield record


def _read_files(home: Home, needs: Needs, files: Sequence[tuple[str, Files]]) -> list[str]:
    """Add the needs in the files of versions; return the faults of files that cannot be read."""
    store, failures = (home.path / "store").resolve(), []
    for uri, each in dict.fromkeys(files):
        local = local_path(each.uri)
        with contextlib.suppress(OSError):
            if local and local.resolve().is_relative_to(store):
                continue  # the path said it
        try:
            with _credentials_for(home, uri), in_workspace(each.workspace):
                for text in texts_in(each, uri):
                    needs.add(f"files of {each.version}", text)
        except UnreadableFilesError as error:
            failures.append(
                f"{each.version}: {error.what} ({error.mend}; or, if it serves nothing of this"
                f" store, `mergeflow gc --foreign {each.version}`)"
            )
    return failures


@contextlib.contextmanager
def _credentials_for(home: Home, uri: str) -> Iterator[None]:
    """Keep the credentials of the server that the environment names from every other server.

    Where the environment names none, MLflow gives them to whichever it asks.
    """
    named = os.environ.get("MLFLOW_TRACKING_URI")
    if not named or not is_server(uri) or canonical(home, named) == canonical(home, uri):
        yield
        return
    with _ENVIRONMENT:
        kept = {key: os.environ.pop(key) for key in _CREDENTIALS if key in os.environ}
        try:
            yield
        finally:
            os.environ.update(kept)
