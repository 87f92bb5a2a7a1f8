"""The connection to MLflow: where it is, kept quiet, clear when away, one writer at a time.

MLflow is imported inside functions only: it takes seconds, and most commands never need it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from merge_core.errors import SECRET_WORDS, MergeflowError, StepError, one_line
from merge_core.files.locks import held
from merge_core.files.private import open_private, private_umask
from merge_core.homes.home import Home
from tasks.registry.database import create_database
from tasks.registry.faults import RegistryUnreachableError as RegistryUnreachableError
from tasks.registry.faults import in_words, locked, unreachable
from tasks.registry.pages import every
from tasks.registry.places import artifacts_beside, follow_home

if TYPE_CHECKING:
    from mlflow import MlflowClient

TAG = "mergeflow."
"""Prefix of every tag written here; `search` by it finds everything mergeflow recorded."""
MAX_TAG_VALUE = 5000
"""Characters of a tag that MLflow takes."""

_OF_EXPERIMENTS = {
    # MLflow opens the pages for chats where nothing says that these are models.
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.note.content": "Merges that mergeflow made. A run is one merge with its evidence and"
    " its decision; its child runs are the evaluations, of what went in and of what came out."
    " Among its files `scores.json` has all scores side by side, `documents.json` those of each"
    " document. `mergeflow audit` tells whether all of it still agrees.",
}
_SQLITE = "sqlite:///"
_DATABASE = "mlflow.db"
_DATABASES = ("postgresql", "mysql", "mssql", "databricks")
_ANSWER_SECONDS = 5.0
_PROCESS_LOCK = threading.RLock()
_USER = re.compile(r"(?<=://)[^/?#]*@")
_SECRET_PARAMETER = re.compile(rf"([?&])[^=&#]*(?:{SECRET_WORDS})[^=&#]*=[^&#]*&?", re.IGNORECASE)


@dataclass(frozen=True)
class Registry:
    """An open connection: MLflow's client and the address it was opened with."""

    client: MlflowClient
    tracking_uri: str

    @property
    def address(self) -> str:
        """The tracking address as it may be shown and stored: without credentials."""
        return strip_credentials(self.tracking_uri)


def default_tracking_uri(home: Home) -> str:
    """`$MLFLOW_TRACKING_URI` when set, else the embedded SQLite database in the data directory.

    Raises:
        MergeflowError: the home's models are in another database, whose server is not up.
    """
    named = os.environ.get("MLFLOW_TRACKING_URI")
    if not named and home.names_databases:
        raise MergeflowError(
            "models are kept in the database that this file names, and no server of it is up",
            where=str(home.stack_file),
            mend="start `mergeflow up`, or set MLFLOW_TRACKING_URI to a server that runs already",
        )
    return named or f"{_SQLITE}{home.mlflow / _DATABASE}"


def is_server(tracking_uri: str) -> bool:
    """Whether the address is that of an MLflow server (rather than a local database)."""
    return urlsplit(tracking_uri).scheme in ("http", "https")


def strip_credentials(uri: str) -> str:
    """The address without user, password and secret-looking query parameters."""
    return _SECRET_PARAMETER.sub(r"\1", _USER.sub("", uri)).rstrip("?&")


def check_address(tracking_uri: str, *, writing: bool = False) -> None:
    """Find an address that cannot work, in seconds and without importing MLflow.

    Args:
        writing: a local database may still be missing: it is created on first use.

    Raises:
        RegistryUnreachableError: the server did not answer, or another program holds the database.
        StepError: the local database is damaged or cannot be opened.
        MergeflowError: the address is not one that can work.
    """
    database = _sqlite_path(tracking_uri)
    if database is not None:
        try:
            _require_database(database, writing)
        except OSError as error:
            raise MergeflowError(
                f"the MLflow database cannot be reached: {error.strerror}",
                where=str(database),
                mend="see that you may read and write there, or name another tracking address",
            ) from error
    elif _is_possible(tracking_uri):
        if is_server(tracking_uri):
            _require_answer(tracking_uri)
    else:
        raise MergeflowError(
            "this is not an address MLflow can register models at",
            where=strip_credentials(tracking_uri) or "tracking address",
            mend="use an MLflow server (http://host:5000) or a database (sqlite:////abs/mlflow.db)",
        )


@contextlib.contextmanager
def open_registry(tracking_uri: str, *, writing: bool = False) -> Iterator[Registry]:
    """Connect to MLflow; a local database is created on first use.

    With `writing`, registrations into one local database take turns (a lock file beside it), so
    that two runs never create the same thing twice.

    Raises:
        RegistryUnreachableError: the server did not answer.
        StepError: MLflow refused, with its own words.
        MergeflowError: the address is not one that can work.
    """
    check_address(tracking_uri, writing=writing)
    database = _sqlite_path(tracking_uri)
    if database is not None:
        follow_home(database)
    mlflow = quiet_mlflow()
    address = strip_credentials(tracking_uri)
    try:
        with contextlib.ExitStack() as stack:
            if writing:
                stack.enter_context(_one_writer(database))
            if database is not None:  # else its files are the server's
                stack.enter_context(private_umask())
            if database is not None and not database.exists():
                create_database(database, artifacts_beside(database))
            _forget_places_of_files()
            client = mlflow.MlflowClient(tracking_uri, registry_uri=tracking_uri)
            yield Registry(client, tracking_uri)
    except mlflow.exceptions.MlflowException as error:
        said = str(error).replace(tracking_uri, address)
        cause = error if address == tracking_uri else None  # never show credentials in a traceback
        raise in_words(error, said, address, database, writing=writing) from cause


def ensure_experiment(registry: Registry, name: str) -> str:
    """The id of the experiment of this name, created when missing, marked as mergeflow's."""
    client = registry.client
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        location = _artifact_root(registry.tracking_uri)
        made = {TAG + "experiment": "true", **_OF_EXPERIMENTS}
        return str(client.create_experiment(name, location, tags=made))
    if experiment.lifecycle_stage != "active":
        raise MergeflowError(
            f"the MLflow experiment '{name}' was deleted",
            where=registry.address,
            mend="restore it (`mlflow experiments restore`), or register under another experiment",
        )
    for key, value in {TAG + "experiment": "true", **_OF_EXPERIMENTS}.items():
        if key not in experiment.tags:
            client.set_experiment_tag(experiment.experiment_id, key, value)
    return str(experiment.experiment_id)


def mergeflow_experiments(registry: Registry) -> list[str]:
    """Ids of every experiment that mergeflow has registered something in."""
    found = every(
        registry.client.search_experiments, filter_string=f"tags.`{TAG}experiment` = 'true'"
    )
    return [experiment.experiment_id for experiment in found]


@contextlib.contextmanager
def process_tracking_uri(registry: Registry) -> Iterator[None]:
    """Make a local database MLflow's process-wide one for a moment; a server needs nothing.

    MLflow's SQL registry resolves a version's `models:/ID` source through the process-wide
    address, whatever client asks. Setting it also writes the environment: both are put back.
    """
    if is_server(registry.tracking_uri):
        yield
        return
    import mlflow
    from mlflow.tracking._tracking_service import utils

    with _PROCESS_LOCK:
        before, variable = utils._tracking_uri, os.environ.get("MLFLOW_TRACKING_URI")
        mlflow.set_tracking_uri(registry.tracking_uri)
        try:
            yield
        finally:
            mlflow.set_tracking_uri(before)  # type: ignore[arg-type]
            if variable is not None:
                os.environ["MLFLOW_TRACKING_URI"] = variable


def quiet_mlflow() -> Any:
    """Import MLflow without telemetry, links printed to stdout, or migration logs."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    noisy = "MLFLOW_LOGGING_LEVEL" not in os.environ
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    import mlflow

    from tasks.registry.login import log_in_at_the_stack

    log_in_at_the_stack()
    if noisy:
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
    return mlflow


def _forget_places_of_files() -> None:
    """MLflow remembers for a whole process where the files of a run or model are, by its id alone.

    A copy of a home has the same ids: what one process writes into the one, or audits of it, would
    be in the other.
    """
    from mlflow.tracking._tracking_service import utils

    utils._artifact_repos_cache.clear()


def _sqlite_path(tracking_uri: str) -> Path | None:
    if not tracking_uri.startswith(_SQLITE):
        return None
    path = Path(tracking_uri.removeprefix(_SQLITE).partition("?")[0])
    if not path.is_absolute():
        raise MergeflowError(
            "a relative database path depends on where the command is run",
            where=tracking_uri,
            mend="write four slashes and the absolute path: sqlite:////data/mlflow/mlflow.db",
        )
    return path


def _is_possible(tracking_uri: str) -> bool:
    try:
        parts = urlsplit(tracking_uri)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, half an IPv6 address
        return False
    if parts.scheme in ("http", "https"):
        return has_host
    return (parts.scheme or tracking_uri).startswith(_DATABASES)


def _require_database(database: Path, writing: bool) -> None:
    """Fail at once on a missing or damaged file: MLflow retries for minutes.

    Opened for writing, which also rolls back the unfinished write of a killed process.
    """
    if not database.exists():
        if writing:
            _require_room(database)
            return
        raise MergeflowError(
            "there is no MLflow database here, so nothing has been registered yet",
            where=str(database),
            mend="run a pipeline first, or name another tracking address",
        )
    try:
        with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True)) as file:
            file.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname.startswith("SQLITE_BUSY"):
            raise locked(database) from error
        raise StepError(
            f"the MLflow database cannot be opened: {one_line(error)}", where=str(database)
        ) from error
    except sqlite3.DatabaseError as error:
        raise StepError(
            f"the MLflow database is damaged: {one_line(error)}",
            where=str(database),
            mend="restore it from a backup, or move it away to start an empty one",
        ) from error


def _require_room(database: Path) -> None:
    """A database that is still missing can be created, with the directories above it."""
    above = next(place for place in database.parents if place.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise MergeflowError(
            f"no MLflow database can be created here: {above} "
            + ("may not be written" if above.is_dir() else "is no directory"),
            where=str(database),
            mend="name another tracking address",
        )


def _require_answer(tracking_uri: str) -> None:
    """Fail in seconds, not after MLflow's minutes of retries, when nobody listens there."""
    import requests

    parts = urlsplit(tracking_uri)
    host = parts.netloc.rpartition("@")[2]
    address = urlunsplit((parts.scheme, host, parts.path.rstrip("/") + "/health", "", ""))
    try:
        requests.get(address, timeout=_ANSWER_SECONDS, stream=True).close()
    except (requests.exceptions.SSLError, requests.exceptions.ProxyError):
        return  # somebody is there; MLflow's own client has the settings to get through
    except requests.exceptions.RequestException as error:
        raise unreachable(strip_credentials(tracking_uri), type(error).__name__) from None


@contextlib.contextmanager
def _one_writer(database: Path | None) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        stack.enter_context(_PROCESS_LOCK)
        if database is not None:
            stack.enter_context(held(open_private(database.with_name(f"{database.name}.lock"))))
        yield


def _artifact_root(tracking_uri: str) -> str | None:
    """Where a new experiment keeps artifacts: beside a local database, else the server's choice."""
    database = _sqlite_path(tracking_uri)
    if database is not None:
        return artifacts_beside(database)
    if not is_server(tracking_uri) and not tracking_uri.startswith("databricks"):
        raise MergeflowError(
            "a bare database address says nothing about where artifacts go",
            where=strip_credentials(tracking_uri),
            mend="run `mlflow server` on this database and use its http address, or create the"
            " experiment there first",
        )
    return None
