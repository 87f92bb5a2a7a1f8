"""Where mergeflow keeps what it makes: one directory a user can move, back up or delete."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Home:
    """The data directory: published checkpoints, caches, the MLflow and Prefect databases."""

    path: Path

    @classmethod
    def discover(cls) -> Home:
        """`$MERGEFLOW_HOME`, else the nearest `.mergeflow` here or above, else `~/.mergeflow`.

        Looking upwards is what git does: every command inside a project finds the same data.
        """
        named = os.environ.get("MERGEFLOW_HOME")
        if named:
            return cls(Path(named).expanduser().absolute())
        here = Path.cwd()
        for directory in (here, *here.parents):
            if (directory / ".mergeflow").is_dir():
                return cls(directory / ".mergeflow")
        return cls(Path.home() / ".mergeflow")

    @property
    def objects(self) -> Path:
        """Published checkpoints, `objects/<object id>/`, read-only."""
        return self.path / "store" / "objects"

    @property
    def set_aside(self) -> Path:
        """What was in an object's place without being that object, for a person to look at."""
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
    def cache(self) -> Path:
        """Results of the pipeline's cached steps."""
        return self.path / "cache"

    @property
    def digest_memo(self) -> Path:
        """Remembered file digests, so that a large input is hashed once."""
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
        """What is known of the local stack that runs here (`mergeflow up`)."""
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
        from merge_core.yaml_files import load_yaml

        return bool(load_yaml(self.stack_file).get("prefect_database"))

    @property
    def scratch(self) -> Path:
        """Working files of evaluations."""
        return self.path / "scratch"
