"""A home in which a real merge was registered with real evidence, for audits and who tampers."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from merge_core.files.digests import digest_of
from merge_core.homes.home import Home
from merge_core.output.model_files import RECIPE_NAME
from merge_core.planning.layout import DEFAULT_SHARD_BYTES
from merge_core.recipes.loading import parse_recipe
from merge_core.records import SourceCheckpoint
from tasks.evaluation.document_texts import file_of_task
from tasks.promotion.baselines import Compared
from tasks.promotion.rule import PromotionRule
from tasks.records import EvaluationReport, Registration
from tasks.registry.client import default_tracking_uri
from tasks.registry.file_list import sha256_of
from tasks.registry.lock import LOCK, Lock, LockedSource
from tasks.registry.register import register_merge
from tests.support.decisions import decide
from tests.support.edited_objects import loosen
from tests.support.merge_store import Store, merge_store
from tests.support.registrations import empty_registry, report

SUITE = {"suite": {"name": "zoo"}, "files": {}}
DOCUMENTS = [
    {"doc_id": sha256(json.dumps(doc, indent=2).encode()).hexdigest(), "doc": doc}
    for doc in ({"text": f"document {index}", "level": index / 3} for index in range(40))
]
"""With the ids that lm-eval gives such documents."""
TEXTS = "".join(json.dumps(each) + "\n" for each in DOCUMENTS)
"""As a record keeps them."""
KEPT = file_of_task("zoo_code_bpb")
RULE = PromotionRule(max_regression=0.05, min_gain=0.0, resamples=200)


@dataclass(frozen=True)
class Audited:
    """The home, and what was registered in it."""

    home: Home
    base: Path
    tuned: Path
    first: Registration
    """A merge that was promoted: version 2."""
    second: Registration
    """A merge that fell back: version 3."""

    @property
    def registry(self) -> str:
        """Address of the home's own database."""
        return default_tracking_uri(self.home)

    @property
    def object(self) -> Path:
        """Where the promoted merge is in the store."""
        return self.home.objects / self.first_object

    @property
    def first_object(self) -> str:
        """Its name there."""
        [name] = [
            path.name for path in self.home.objects.iterdir() if path.name in self.objects_of_first
        ]
        return name

    objects_of_first: tuple[str, ...] = ()

    def copied(self, to: Path) -> Audited:
        """The same in another place, with every file open to whoever tampers."""
        shutil.copytree(self.home.path, to / "home", symlinks=True)
        for model in (self.base, self.tuned):
            shutil.copytree(model, to / model.name)
        loosen(to / "home" / "store")
        return Audited(
            Home(to / "home"),
            self.base,
            self.tuned,
            self.first,
            self.second,
            self.objects_of_first,
        )


def audited_home(directory: Path, template: Path) -> Audited:
    """Merge, evaluate by made-up documents, decide and register twice in a new home.

    Args:
        template: an empty MLflow database, made where it is missing.
    """
    home = Home(directory / "home")
    empty_registry(home.mlflow, template)
    store = merge_store(directory, home, default_tracking_uri(home))
    found = []
    for weight, bits in ((0.5, 2.3), (0.7, 3.1)):
        manifest = store.merged(weight)
        merged = manifest.as_source()
        scores = [evaluated(store.base, 2.5, 0.4), evaluated(merged, bits, 0.5)]
        scores.insert(1, evaluated(store.tuned, 2.4, 0.45))
        recipe_yaml = (Path(manifest.path) / RECIPE_NAME).read_text("utf-8")
        compared = Compared(baseline_digest=store.base.digest, expert_digests=(store.tuned.digest,))
        registration = register_merge(
            tracking_uri=store.registry,
            experiment="merges",
            model_name="model",
            recipe_yaml=recipe_yaml,
            recipe_digest=manifest.recipe_digest,
            manifest=manifest,
            base=store.base,
            models=[store.tuned],
            reports=scores,
            decision=decide(scores[2], scores[0], RULE, [scores[1]]),
            pipeline_name="nightly",
            artifacts={
                "rule.json": RULE.model_dump_json(),
                "compared.json": compared.model_dump_json(exclude_none=True),
                LOCK: locked(store, recipe_yaml).model_dump_json(),
                KEPT: TEXTS,
            },
            home=home,
        )
        found.append((manifest, registration))
    (manifest, first), (_, second) = found
    base, tuned = Path(store.base.path), Path(store.tuned.path)
    return Audited(home, base, tuned, first, second, (manifest.object_id,))


def locked(store: Store, recipe_yaml: str) -> Lock:
    """The lock of a merge of the store's two checkpoints."""
    named = {"base": store.base, "tuned": store.tuned}
    sources = (each.model_copy(update={"reference": name}) for name, each in named.items())
    return Lock(
        sources=tuple(map(LockedSource.of, sources)),
        shard_bytes=DEFAULT_SHARD_BYTES,
        device="cpu",
        threads=1,
        pipeline={"recipe": parse_recipe(recipe_yaml).model_dump(mode="json")},
        beside=None,
        suite=SUITE,
        documents={KEPT: sha256_of(TEXTS)},
        started="2026-01-01T00:00:00+00:00",
        ended="2026-01-01T00:01:00+00:00",
    )


def evaluated(checkpoint: SourceCheckpoint, bits: float, accuracy: float) -> EvaluationReport:
    """An evaluation on forty documents, whose values lie around a mean."""
    few = report(checkpoint, bits, accuracy)
    scores = []
    for score in few.scores:
        spread = [0.02 * ((7 * index) % 5 - 2) for index in range(40)]
        values = tuple(score.score + each for each in spread)
        scores.append(
            score.model_copy(
                update={
                    "doc_ids": tuple(each["doc_id"] for each in DOCUMENTS),
                    "values": values,
                    "weights": (1.0,) * 40,
                    "score": sum(values) / 40,
                }
            )
        )
    return few.model_copy(update={"scores": tuple(scores), "suite_digest": digest_of(SUITE)})
