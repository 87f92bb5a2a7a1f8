"""The evaluations of a diagnosis: merges along each task vector and between models, each made in
memory and evaluated by a fork, as the candidates of a search, and kept like them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace

from merge_core.errors import MergeflowError
from merge_core.files.digests import digest_of
from merge_core.files.locks import held, lock_file
from merge_core.files.private import PRIVATE_FILE, make_private_directory
from merge_core.homes.home import Home
from merge_core.planning.layout import DEFAULT_SHARD_BYTES
from merge_core.progress import Progress, ProgressEvent
from merge_core.recipes.recipe import Recipe
from merge_core.records import SourceCheckpoint
from merge_core.text.plain import plain_log
from tasks.candidate import Workshop
from tasks.diagnosis.curves import Curves, Found, curve_of, tasks_of
from tasks.diagnosis.points import Path
from tasks.evaluation.evaluators import Evaluators
from tasks.evaluation.suite import Split, Suite, suite_digest
from tasks.records import EvaluationReport

_log = plain_log("mergeflow")

HALF = 0.5
"""Share of the groups that a diagnosis looks at, where the suite has no `split`."""


@dataclass
class Evaluations:
    """Where the merges of one diagnosis are made and measured."""

    home: Home
    sources: Mapping[str, SourceCheckpoint]
    suite: Suite
    """Its half for searching: see `search_half`."""
    device: str
    threads: int | None
    evaluators: Evaluators
    progress: Progress | None = None
    slot: AbstractContextManager[object] | None = None
    """Held while something is evaluated: a place on the GPU."""

    def curves(self, paths: Sequence[Path], base: Recipe, left_out: int = 0) -> Curves:
        """What is found at every point of every path, each merge evaluated once.

        Args:
            base: what the changes are against.

        Raises:
            MergeflowError: the base cannot be evaluated.
        """
        recipes = {recipe.digest: recipe for path in paths for _, recipe in path.points}
        workshop = self._workshop([*recipes])
        recipes.pop(base.digest, None)
        tell, total = self.progress or (lambda event: None), len(recipes) + 1
        with self._alone(workshop), self.slot or nullcontext():
            first = workshop.measured(base, {}, None)
            tell(ProgressEvent("diagnose", 1, total, "merges"))
            # What is compared has one batch size.
            workshop = replace(workshop, batch_size=first.report.batch_size)
            found: dict[str, Found] = {base.digest: first.report}
            known = int(first.known)
            for done, (digest, recipe) in enumerate(recipes.items(), 2):
                found[digest], was_known = _measured(workshop, recipe)
                known += was_known
                tell(ProgressEvent("diagnose", done, total, "merges"))
        return Curves(
            suite=self.suite.name,
            documents=sum(len(score.doc_ids) for score in first.report.scores),
            tasks=tasks_of(first.report),
            curves=tuple(
                curve_of(
                    path.models,
                    [(at, found[recipe.digest]) for at, recipe in path.points],
                    first.report,
                )
                for path in paths
            ),
            pairs_left_out=left_out,
            evaluated=total - known,
            known=known,
        )

    def _workshop(self, recipes: Sequence[str]) -> Workshop:
        digests = [source.digest for source in self.sources.values()]
        identity = digest_of([suite_digest(self.suite), digests, recipes])
        return Workshop(
            home=self.home,
            sources=self.sources,
            suite=self.suite,
            device=self.device,
            threads=self.threads,
            evaluators=self.evaluators,
            batch_size=None,
            shard_bytes=DEFAULT_SHARD_BYTES,
            study=f"diagnose {identity}",
        )

    @contextmanager
    def _alone(self, workshop: Workshop) -> Iterator[None]:
        """Wait for the same diagnosis in another process, whose evaluations are found then; and
        remove what a killed one left."""
        make_private_directory(self.home.scratch)
        name = f"diagnose-{workshop.study.rpartition(' ')[2][:16]}.lock"
        with held(lock_file(self.home.scratch / name, PRIVATE_FILE)):
            workshop.clear()
            yield


def search_half(suite: Suite) -> Suite:
    """The half of a suite that a search may look at: nothing is decided by its documents."""
    split = suite.split or Split(search=HALF)
    return suite.model_copy(update={"split": split, "part": "search"})


def _measured(workshop: Workshop, recipe: Recipe) -> tuple[EvaluationReport | str, bool]:
    try:
        measured = workshop.measured(recipe, {}, None)
    except MergeflowError as error:
        _log.warning("warning: a merge on the way cannot be evaluated: %s", error.what)
        return error.what, False
    return measured.report, measured.known
