"""Learning what the inputs of a merge hold while they are merged, rather than before.

Digests take every byte of every input, and a merge reads them all anyway: done at once, a byte
comes from the disk once. Until digests are known the merge goes by what changes whenever a file
does; in the end no file may have changed since the beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from merge_core.checkpoints.sources import adapter_files, model_files
from merge_core.engine.run import Follower
from merge_core.errors import CheckpointError, unreadable
from merge_core.files.digests import as_text, digest_of, fingerprint, lasting
from merge_core.planning.plan import Plan, with_digests
from merge_core.progress import Progress, SharedProgress
from merge_core.recipes.recipe import Recipe
from merge_core.records import SourceAdapter, SourceCheckpoint

Sources = Mapping[str, SourceCheckpoint]
LearnDigests = Callable[[Progress], Sources]
"""Gives the sources with their digests; raises what is wrong with them."""


@dataclass(frozen=True)
class DeferredDigests:
    """Inputs whose digests are learned later, as they are on this disk when a merge begins."""

    learn: LearnDigests
    shard_bytes: int
    seen: Mapping[str, str]
    """What changes with each of their files, by path."""

    @classmethod
    def of(cls, sources: Sources, learn: LearnDigests, shard_bytes: int) -> DeferredDigests:
        """Look at every file that decides what the inputs are, before anything is read of them.

        Raises:
            CheckpointError: a file that is named is not there, or leads out of its checkpoint.
            UnreadableError: a directory or file cannot be looked at.
        """
        try:
            return cls(learn, shard_bytes, _fingerprints(sources))
        except OSError as error:
            raise unreadable(Path(error.filename or "an input"), error) from error

    def plan(self, plan: Plan, sources: Sources) -> Plan:
        """A plan that was made without digests, with an identity for the time being: for as long
        as no file changes, and every reference leads to the same ones."""
        places = {reference: _places(source) for reference, source in sources.items()}
        files = {as_text(path): lasting(seen) for path, seen in self.seen.items()}
        identity = digest_of({"plan": plan.digest, "sources": places, "files": files})
        return replace(plan, digest=identity)

    def refuse_changes_before(self, sources: Sources) -> None:
        """Nobody wrote to a file between the beginning and now.

        Args:
            sources: as they were seen, without digests.

        Raises:
            CheckpointError: a file has changed, come or gone.
            OSError: a file cannot be looked at.
        """
        if _fingerprints(sources) != self.seen:
            raise changed_meanwhile()

    def refuse_changes(self, sources: Sources) -> None:
        """What was hashed is what was merged: nobody wrote to a file between the beginning and now.

        Args:
            sources: with digests, which were computed meanwhile.

        Raises:
            CheckpointError: a file has changed, come or gone.
        """
        parts: list[SourceCheckpoint | SourceAdapter] = [*sources.values(), *_adapters(sources)]
        hashed = {str(part.directory / file.name) for part in parts for file in part.files}
        if hashed != set(self.seen) or _fingerprints(sources) != self.seen:
            raise changed_meanwhile()


class DigestThread:
    """Learns digests in a thread of its own while the body runs; leaving it ends that."""

    def __init__(self, inputs: DeferredDigests, progress: SharedProgress) -> None:
        self._inputs = inputs
        self._progress = progress
        self._pool = ThreadPoolExecutor(1)
        self._found: Future[Sources] | None = None

    def __enter__(self) -> DigestThread:
        self._found = self._pool.submit(self._inputs.learn, self._progress)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()
        self._pool.shutdown(cancel_futures=True)

    def check(self) -> None:
        """Raise what has been found wrong so far."""
        if self._found and self._found.done():
            self._found.result()

    def conclude(self, plan: Plan) -> tuple[Plan, Sources]:
        """Wait for the digests: the plan with its lasting identity, and the sources.

        Raises:
            CheckpointError: an input is not what it is said to be, or changed meanwhile.
        """
        assert self._found is not None
        sources = self._found.result()
        self._inputs.refuse_changes(sources)
        return with_digests(plan, sources, self._inputs.shard_bytes), sources


class CheckedFollower:
    """A follower of the workers that also stops them when an input turns out to be wrong."""

    def __init__(self, follower: Follower, digest_thread: DigestThread) -> None:
        self._follower = follower
        self._digests = digest_thread

    def written(self, index: int, start: int, stop: int) -> None:
        """As the follower's."""
        self._follower.written(index, start, stop)

    def pace(self, workers: int, is_over: Callable[[], bool]) -> None:
        """As the follower's."""
        self._digests.check()
        self._follower.pace(workers, is_over)


def needs_digests(recipe: Recipe) -> bool:
    """Whether the result depends on the inputs' digests: random methods draw by them."""
    return any(each.method.random for each in (recipe, *recipe.recipes))


def changed_meanwhile() -> CheckpointError:
    """An input is no longer what it was."""
    return CheckpointError(
        "an input changed while it was merged",
        mend="wait until nothing writes to the inputs, and merge again",
    )


def _fingerprints(sources: Sources) -> dict[str, str]:
    files = [path for each in sources.values() for path in model_files(each.directory.absolute())]
    for adapter in _adapters(sources):
        files += adapter_files(adapter.directory.absolute())
    return {str(path): fingerprint(path) for path in files}


def _places(source: SourceCheckpoint) -> list[str]:
    directories = [source.directory]
    if source.adapter:
        directories.append(source.adapter.directory)
    return [as_text(directory.absolute()) for directory in directories]


def _adapters(sources: Sources) -> list[SourceAdapter]:
    return [source.adapter for source in sources.values() if source.adapter]
