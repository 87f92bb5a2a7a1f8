"""A home with merges in its store, and what registers or records them, for tests of retention."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from merge_core.homes.home import Home
from merge_core.operations.merge import merge
from merge_core.operations.trajectory.records import RunCheckpoint
from merge_core.recipes.loading import parse_recipe
from merge_core.records import CheckpointManifest, SourceCheckpoint
from tasks.records import Registration
from tasks.registry.client import TAG, open_registry
from tasks.registry.past_averages import AverageRecord, RegisteredAt, keep_average
from tasks.registry.register import register_merge
from tasks.registry.versions import ensure_registered_model
from tasks.store.retention import survey
from tests.support.registrations import decision, report
from tests.support.tiny_llama import base_weights, fine_tuned, write_llama

DAY = 86_400.0
PIPELINE = "nightly"


@dataclass
class Store:
    """A home with one merged checkpoint for each weight that is asked for."""

    home: Home
    registry: str
    base: SourceCheckpoint
    tuned: SourceCheckpoint

    def merged(self, weight: float, age: float = 2 * DAY) -> CheckpointManifest:
        """A merge in the store that was made some seconds ago."""
        recipe = parse_recipe(
            {
                "merge_method": "linear",
                "models": [
                    {"model": "base", "parameters": {"weight": 1.0}},
                    {"model": "tuned", "parameters": {"weight": weight}},
                ],
            }
        )
        sources = {"base": self.base, "tuned": self.tuned}
        manifest = merge(recipe, sources, home=self.home, check=False)
        made_old(Path(manifest.path), age)
        return manifest

    def register(
        self,
        manifest: CheckpointManifest,
        *,
        alias: str | None = None,
        name: str = "model",
        pipeline: str = PIPELINE,
    ) -> str:
        """A version with the tags that `tasks.registry.versions` gives it, and no evidence; its
        number."""
        tags = {
            "digest": manifest.digest,
            "object_id": manifest.object_id,
            "path": manifest.path,
            "role": "merged",
            "pipeline": pipeline,
        }
        with open_registry(self.registry, writing=True) as registry:
            ensure_registered_model(registry, name)
            named = {TAG + key: value for key, value in tags.items()}
            version = registry.client.create_model_version(name, manifest.path, tags=named)
            if alias:
                registry.client.set_registered_model_alias(name, alias, version.version)
        return str(version.version)

    def register_with_evidence(self, manifest: CheckpointManifest) -> str:
        """Register a merge that fell back as the flow does; its version."""
        return self.decided(manifest, promote=False).candidate.version

    def decided(self, manifest: CheckpointManifest, *, promote: bool) -> Registration:
        """Register a merge as the flow does."""
        return register_merge(
            tracking_uri=self.registry,
            experiment="merges",
            model_name="model",
            recipe_yaml="merge_method: linear\n",
            recipe_digest=manifest.recipe_digest,
            manifest=manifest,
            base=self.base,
            models=[self.tuned],
            reports=[report(self.base, 2.5, 0.4), report(manifest.as_source(), 2.4, 0.5)],
            decision=decision(self.base, manifest.digest, promote=promote),
            pipeline_name=PIPELINE,
        )

    def record(
        self, manifest: CheckpointManifest, step: int, registered: RegisteredAt | None = None
    ) -> AverageRecord:
        """Put an average on record."""
        seen = RunCheckpoint(step=step, name=f"c{step}", reference=f"/c{step}", identity=str(step))
        record = AverageRecord(
            name=PIPELINE,
            run="/run",
            settings="settings",
            seen=(seen,),
            average=manifest,
            state="FellBack",
            registered=registered,
        )
        keep_average(self.home, record)
        return record

    def survey(self, *, keep: int = 1, older_than: float = DAY) -> dict[str, str | None]:
        """Why each object is kept, by its id."""
        items = survey(self.home, self.registry, keep=keep, older_than_seconds=older_than)
        return {item.name: item.kept for item in items}

    def objects(self) -> set[str]:
        """Ids of what is in the store."""
        return {path.name for path in self.home.objects.iterdir()}


def merge_store(directory: Path, home: Home, registry: str) -> Store:
    """An empty store beside a registry; what it merges is made in a directory."""
    home.path.mkdir(exist_ok=True)
    home.path.chmod(0o700)  # an open one would be closed by the first command, modes and all
    base = write_llama(directory / "base", base_weights())
    tuned = write_llama(directory / "tuned", fine_tuned(base_weights(), 1))
    return Store(home, registry, base, tuned)


def clear_away(home: Home) -> None:
    """Remove a home, however deep and read-only its directories are: pytest cannot."""
    if home.path.is_dir():
        subprocess.run(["chmod", "-R", "u+rwX", str(home.path)], check=False)
        subprocess.run(["rm", "-rf", str(home.path)], check=False)


def made_old(directory: Path, age: float) -> None:
    """Let everything in a directory be of some seconds ago."""
    when = time.time() - age
    for path in (*directory.rglob("*"), directory):
        os.utime(path, (when, when))
