"""Where mergeflow keeps what it makes: one directory a user can move, back up or delete."""

from __future__ import annotations

import atexit
import contextlib
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from merge_core.errors import MergeflowError
from merge_core.homes.belief import believe, find_home


@dataclass(frozen=True)
class Home:
    """The data directory: published checkpoints, caches, the MLflow and Prefect databases."""

    path: Path

    @classmethod
    def discover(cls, *, make: bool = True) -> Home:
        """`$MERGEFLOW_HOME`, else the nearest `.mergeflow` here or above, else `~/.mergeflow`.

        Looking upwards is what git does: every command inside a project finds the same data. What
        is found is believed only if it is the user's (`merge_core.homes.belief`).

        Args:
            make: whether a missing home is made.

        Raises:
            HomeError: it is not believed, or cannot be made.
            RecipeError: its stack.yaml cannot be read.
        """
        found = find_home()
        believe(found, make=make)
        return cls(found.path)

    @classmethod
    def if_believed(cls, *, make: bool = True) -> Home:
        """As `discover`, for work that can be done without a home; see `NoHome`."""
        try:
            return cls.discover(make=make)
        except MergeflowError as refusal:
            return NoHome(refusal)

    @property
    def is_believed(self) -> bool:
        """Whether there is a home to read from and write to."""
        return True

    @property
    def objects(self) -> Path:
        """Published checkpoints, `objects/<object id>/`, read-only."""
        return self.path / "store" / "objects"

    @property
    def set_aside(self) -> Path:
        """Directories that stood in an object's place and are not it, for a person to inspect."""
        return self.path / "store" / "set-aside"

    @property
    def staging(self) -> Path:
        """Merges in progress, one directory a plan; a killed merge resumes from here."""
        return self.path / "store" / "staging"

    @property
    def statistics(self) -> Path:
        """What calibration measured of models, `statistics/<key>/`, read-only."""
        return self.path / "store" / "statistics"

    @property
    def averages(self) -> Path:
        """Records of the averages of training runs, by configuration."""
        return self.path / "averages"

    @property
    def history(self) -> Path:
        """What was promoted, kept and taken back, by registered model."""
        return self.path / "history"

    @property
    def keys(self) -> Path:
        """Keys to sign with, and public keys that are trusted."""
        return self.path / "keys"

    @property
    def signatures(self) -> Path:
        """Signatures on published checkpoints, beside them, by object id."""
        return self.path / "store" / "signatures"

    @property
    def serving(self) -> Path:
        """A link for each registered model that a server reads from a directory."""
        return self.path / "serving"

    @property
    def cache(self) -> Path:
        """Results of the pipeline's cached steps."""
        return self.path / "cache"

    @property
    def digest_memo(self) -> Path | None:
        """Remembered file digests, so that a large input is hashed once; None where none are."""
        return self.path / "digests.sqlite"

    @property
    def mlflow(self) -> Path:
        """The embedded MLflow database and artifacts."""
        return self.path / "mlflow"

    @property
    def prefect(self) -> Path:
        """The embedded Prefect database and settings."""
        return self.path / "prefect"

    @property
    def logs(self) -> Path:
        """Output of the servers and child processes that a run starts."""
        return self.path / "logs"

    @property
    def stack(self) -> Path:
        """The record of the local stack that runs here (`mergeflow up`)."""
        return self.path / "stack"

    @property
    def stack_file(self) -> Path:
        """Settings of this home that a person wrote: databases, workers, hosts, access."""
        return self.path / "stack.yaml"

    @property
    def names_databases(self) -> bool:
        """Whether runs and models are kept in databases that `stack.yaml` names, not in the home.

        Raises:
            RecipeError: that file cannot be read.
        """
        if not self.stack_file.exists():
            return False
        from merge_core.files.strict_yaml import load_yaml

        return bool(load_yaml(self.stack_file).get("prefect_database"))

    @property
    def scratch(self) -> Path:
        """Working files of evaluations."""
        return self.path / "scratch"


class NoHome(Home):
    """In place of a home that is not believed: nothing of it is read, nothing is kept in it.

    Digests are computed, logs go to a directory of their own. Whatever needs more of a home is told
    why there is none.
    """

    _refusal: MergeflowError

    def __init__(self, refusal: MergeflowError) -> None:
        object.__setattr__(self, "_refusal", refusal)

    @property
    def is_believed(self) -> bool:
        return False

    @property
    def path(self) -> Path:
        raise self._refusal

    @property
    def digest_memo(self) -> None:
        return None

    @cached_property
    def logs(self) -> Path:
        place = Path(tempfile.mkdtemp(prefix="mergeflow-logs-"))
        atexit.register(_remove_if_empty, place)
        return place


def _remove_if_empty(directory: Path) -> None:
    with contextlib.suppress(OSError):
        directory.rmdir()
