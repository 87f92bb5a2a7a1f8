"""The merge flow's steps up to a merged checkpoint that loads; `judging` has those after it.

Each step says what it is cached by, what it shows, and what is checked of a cache hit. A hit is a
claim about the disk. Where it names files they are looked at, and the step is done again when they
are missing or changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flows.fanout.choose import executor_of
from flows.gpu_slot import device_slot
from flows.run_step import run_step
from flows.settings.pipeline import Pipeline
from flows.steps.artifacts import publish_report, with_warnings
from merge_core.errors import StepError
from merge_core.files.digests import DigestMemo, model_digest
from merge_core.files.own_files import NotOursError, read_own, set_aside
from merge_core.files.private import write_private
from merge_core.findings import some
from merge_core.homes.home import Home
from merge_core.operations.examine import Examined, examine
from merge_core.operations.profile import TaskVectorProfile, profile_key
from merge_core.progress import Progress
from merge_core.recipes.loading import parse_recipe
from merge_core.recipes.measurements import Measurement, measurements
from merge_core.recipes.warnings import warnings_of
from merge_core.records import CheckpointManifest, SourceCheckpoint
from merge_core.runtime.compute import Compute
from merge_core.store.objects import Store, Wanted
from merge_core.store.quarantine import count_as_new
from merge_core.store.vouching import departures
from merge_core.text.plain import plain_log
from merge_core.verification.tolerance import Tolerance
from merge_core.verification.verify import CompatibilityReport, raise_for_errors
from tasks.calibrate import calibrate_task
from tasks.calibration.measure import calibrate_all
from tasks.load import loading_task
from tasks.loading.check import LoadingReport, raise_for_loading
from tasks.merge import merge_task
from tasks.profile import profile_task
from tasks.progress import listening, prefect_progress
from tasks.registry.lock import LockedSource
from tasks.reports.names import distinct_names
from tasks.reports.verify import compatibility_markdown, profile_markdown
from tasks.resolve import preflight_task, resolve_task
from tasks.sources.hub_blobs import check_blobs
from tasks.sources.locate import Location
from tasks.units import read_size
from tasks.verify import verify_task

_log = plain_log("mergeflow")

_PNG = b"\x89PNG\r\n\x1a\n"
_MAX_PICTURE = 16 << 20


class Resolved(NamedTuple):
    """The checkpoints of a recipe on this disk, by reference, the base first; and what is locked of
    them."""

    sources: dict[str, SourceCheckpoint]
    locked: tuple[LockedSource, ...]


def resolve(pipeline: Pipeline, home: Home, beside: Path | None) -> Resolved:
    """Find and identify every checkpoint of the recipe."""
    for warning in warnings_of(pipeline.recipe):
        _log.warning("warning: %s", warning)
    references = pipeline.recipe.references()
    uri = pipeline.register_as.tracking_uri or ""
    tolerance = Tolerance.of(pipeline.recipe)
    arguments = (references, home.path, beside, uri, tolerance)
    found = run_step(preflight_task, *arguments, subject="headers")
    memo = DigestMemo(home.digest_memo)
    names = dict(zip(references, distinct_names(references), strict=True))

    def identify(location: Location, progress: Progress) -> SourceCheckpoint:
        name = names[location.reference]
        with listening(progress):
            source = run_step(resolve_task, location, home.digest_memo, subject=name)
            if departures(source, memo):
                again = resolve_task.with_options(refresh_cache=True)
                source = run_step(again, location, home.digest_memo, subject=name)
        for part in (source, source.adapter):
            if part is not None:
                check_blobs(part)  # what was cached before this was looked at, too
        return source

    sources = found.identified(identify, None)
    locked = [LockedSource.of(sources[each.reference], each.version) for each in found.locations]
    for source in sources.values():
        count_as_new(home, source.directory)
    donor = sources[pipeline.recipe.donor]
    if donor.adapter:
        # It may be served and registered, so it is written out first, and merged as written.
        stored = written_out(pipeline, donor, home)
        own_digest = model_digest(stored.files)
        sources[donor.reference] = stored.model_copy(update={"digest": own_digest})
        locked = [
            each.model_copy(update={"digest": sources[each.reference].digest}) for each in locked
        ]
    return Resolved(sources, tuple(locked))


def verify(pipeline: Pipeline, sources: Mapping[str, SourceCheckpoint]) -> CompatibilityReport:
    """The compatibility report, as a step; its errors end the run."""

    def step(
        base: SourceCheckpoint | None, models: Sequence[SourceCheckpoint], **options: Any
    ) -> CompatibilityReport:
        subject = f"{len(models)} models"
        return run_step(verify_task, base, models, **options, subject=subject)

    scan = pipeline.execution.scan_weights
    examined = examine(pipeline.recipe, sources, scan_weights=scan, verify=step)
    return refuse_or_warn(pipeline, examined)


def refuse_or_warn(pipeline: Pipeline, examined: Examined) -> CompatibilityReport:
    """The report on the run's page, its warnings in the log; its errors end the run."""
    report, idle = examined
    # What the recipe says is not part of the report's key: it changes with every weight.
    warnings = [*warnings_of(pipeline.recipe), *idle]
    markdown = with_warnings(compatibility_markdown(report), warnings)
    publish_report(pipeline.name, "compatibility", markdown)
    for warning in [*idle, *map(str, report.warnings)]:
        _log.warning("warning: %s", warning)
    raise_for_errors(report)
    rows = zip(distinct_names([row.reference for row in report.rows]), report.rows, strict=True)
    _log.info("%s", "; ".join(f"{name}: {row.verdict}" for name, row in rows))
    return report


def profile(
    pipeline: Pipeline, home: Home, base: SourceCheckpoint, models: Sequence[SourceCheckpoint]
) -> TaskVectorProfile:
    """The profile of the task vectors, with its plot on the run's page."""
    measured = run_step(profile_task, base, models, subject=f"{len(models)} task vectors")
    page = profile_markdown(measured, profile_picture(measured, home, base, models))
    publish_report(pipeline.name, "task-vectors", page)
    names = distinct_names(measured.models)
    for (i, j), cosine, conflict in zip(
        measured.pairs, measured.overall.cosines, measured.overall.conflicts, strict=True
    ):
        _log.info(
            "task vectors of %s and %s: cosine %s, %.0f %% of signs in conflict",
            names[i],
            names[j],
            "undefined" if cosine is None else f"{cosine:+.2f}",
            100 * conflict,
        )
    return measured


def profile_picture(
    measured: TaskVectorProfile,
    home: Home,
    base: SourceCheckpoint,
    models: Sequence[SourceCheckpoint],
) -> bytes:
    """The plot of a profile, which is drawn once."""
    return _picture(measured, home.cache / f"profile-{profile_key(base, models)}.png")


def calibrate(
    pipeline: Pipeline, sources: Mapping[str, SourceCheckpoint], home: Home, beside: Path | None
) -> dict[str, SourceCheckpoint]:
    """The measurements of each model for a method that uses data; nothing for other methods."""
    how, memo = pipeline.execution, DigestMemo(home.digest_memo)
    names = list(measurements(pipeline.recipe))
    named = dict(zip(names, distinct_names(names), strict=True))

    def measure(source: SourceCheckpoint, measurement: Measurement) -> SourceCheckpoint:
        subject = f"{measurement.statistic} of {named[source.reference]}"
        arguments = (source, measurement, home.path, beside, how.device, how.threads)
        with device_slot(how.device):
            found = run_step(calibrate_task, *arguments, subject=subject)
            if departures(found, memo):
                again = calibrate_task.with_options(refresh_cache=True)
                found = run_step(again, *arguments, record=found, subject=subject)
        return found

    return calibrate_all(pipeline.recipe, sources, measure)


def merge(
    pipeline: Pipeline,
    sources: Mapping[str, SourceCheckpoint],
    home: Home,
    calibration: Mapping[str, SourceCheckpoint] | None = None,
) -> CheckpointManifest:
    """The merged checkpoint in the store, every byte of it as its manifest says, and that of this
    recipe and these sources.

    Raises:
        StepError: it was merged again for not being that, and still is not.
    """
    recipe, how = pipeline.recipe, pipeline.execution
    shard_bytes = read_size(how.shard_size)
    wanted = Wanted.of_recipe(recipe, sources, shard_bytes, calibration)
    store = Store(home)
    measured = dict(calibration or {})
    executor = executor_of(how.scale_out, home)
    where = (home.path, Compute(how.device, how.threads), measured, shard_bytes, executor)
    arguments = (wanted, recipe, dict(sources), *where)
    # The workers of a pool hold the slots of their own machines, this one's perhaps among them.
    with device_slot("cpu" if how.scale_out.work_pool else how.device):
        manifest = store.here(run_step(merge_task, *arguments, subject=recipe.merge_method))
        problems = store.problems(manifest, wanted, prefect_progress("check"))
        if problems:
            _log.warning(
                "warning: the merged checkpoint %s in the store is not what this recipe gives (%s):"
                " merging again",
                manifest.object_id,
                some(problems),
            )
            again = merge_task.with_options(refresh_cache=True)
            subject = recipe.merge_method
            manifest = run_step(again, *arguments, record=manifest, subject=subject)
            problems = store.problems(manifest, wanted)
    if problems:
        raise StepError(
            f"the checkpoint that was just merged is not what this recipe gives: {some(problems)}",
            where=manifest.path,
            mend="find out who writes to the store, and run the same command again",
        )
    count_as_new(home, Path(manifest.path))
    return manifest


def written_out(pipeline: Pipeline, source: SourceCheckpoint, home: Home) -> SourceCheckpoint:
    """A source as a directory that transformers loads: base with adapter is written to the store.

    Its digest stays that of base and adapter, by which the merge's manifest knows it.
    """
    if source.adapter is None:
        return source
    recipe = parse_recipe({"merge_method": "passthrough", "models": [{"model": source.reference}]})
    as_it_is = pipeline.model_copy(update={"recipe": recipe})
    manifest = merge(as_it_is, {source.reference: source}, home, {})
    return source.model_copy(
        update={"path": manifest.path, "files": manifest.files, "adapter": None}
    )


def load(
    pipeline: Pipeline,
    sources: Mapping[str, SourceCheckpoint],
    manifest: CheckpointManifest,
    home: Home,
) -> LoadingReport:
    """What transformers says of the merged checkpoint; what is worse than in the donor ends the
    run, before anything is evaluated."""
    arguments = (manifest, pipeline.recipe, dict(sources), home.scratch)
    report = run_step(loading_task, *arguments, subject="merged")
    (_log.info if report.checked else _log.warning)("%s", report.sentence)
    raise_for_loading(report, "merged")
    return report


def _picture(profile: TaskVectorProfile, kept: Path) -> bytes:
    """The plot of a profile, drawn once: the drawing library alone takes a second to import."""
    try:
        found = read_own(kept, _MAX_PICTURE)
        if found.startswith(_PNG):
            return found
        raise NotOursError("it is no picture")
    except FileNotFoundError:
        pass
    except NotOursError as error:
        _log.warning("the kept picture %s is not believed and drawn again: %s", kept, error)
        with contextlib.suppress(OSError):
            set_aside(kept)
    from tasks.reports.profile_plot import profile_figure_png

    drawn = profile_figure_png(profile)
    write_private(kept, drawn)
    return drawn
