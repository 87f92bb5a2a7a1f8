"""The averaging flow's own steps; those that it shares with the merge flow are in `merge` and
`judging`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.run_step import run_step
from flows.settings.averaging import Averaging
from flows.steps.artifacts import publish_report
from flows.steps.judging import Chosen
from flows.steps.searched import searched
from flows.steps.trajectory_page import trajectory_markdown
from merge_core.findings import some
from merge_core.homes.home import Home
from merge_core.operations.trajectory.path import PathReport
from merge_core.operations.trajectory.records import Trajectory
from merge_core.records import Record, SourceCheckpoint
from merge_core.store.objects import Store
from merge_core.text.plain import plain_log
from tasks.evaluation.evaluators import Evaluators
from tasks.evaluation.suite import Suite, suite_digest
from tasks.find import find_task, path_task
from tasks.promotion.choice import OTHER_HALF
from tasks.records import MergeOutcome
from tasks.registry.memory import canonical
from tasks.registry.past_averages import (
    AverageRecord,
    RegisteredAt,
    averages_of,
    is_registered,
    keep_average,
)
from tasks.retain import retain_task
from tasks.search.greedy_soup import Soup
from tasks.search.soup import GreedySoup

_log = plain_log("mergeflow")

Sources = Mapping[str, SourceCheckpoint]

_ENDS = {"Promoted": "was promoted", "FellBack": "fell back"}


class NothingNew(Record):
    """The end of a run that had nothing to average."""

    reason: str
    run: str
    step: int | None = None
    """Of the newest checkpoint that can be averaged."""
    average: str | None = None
    """Directory of the average that already holds it."""


@dataclass(frozen=True)
class Mix:
    """What an average is made of."""

    weights: Mapping[str, float]
    """By reference, the oldest checkpoint first."""
    soup: Soup | None = None


def find(averaging: Averaging, home: Home, beside: Path | None) -> Trajectory:
    """The checkpoints to average, with a word in the log on each that is left alone."""
    arguments = (averaging.training, averaging.choose, home.path, beside)
    trajectory = run_step(find_task, *arguments, subject=averaging.name)
    for each in trajectory.left_alone:
        _log.info("left alone: %s: %s", each.name, each.reason)
    return trajectory


def nothing_new(
    averaging: Averaging, trajectory: Trajectory, settings: str, home: Home
) -> NothingNew | None:
    """Why there is nothing to do, if there is nothing: known by content, not by a counter."""
    chosen = trajectory.chosen
    if len(chosen) < 2:
        left = "".join(f"; {each.name}: {each.reason}" for each in trajectory.left_alone)
        reason = (
            f"of {trajectory.found} checkpoints in {trajectory.run}, {len(chosen)} can be"
            f" averaged{left}"
        )
        return NothingNew(
            reason=reason, run=trajectory.run, step=chosen[0].step if chosen else None
        )
    for record in averages_of(home, averaging.name):
        if (record.run, record.settings) != (trajectory.run, settings):
            continue
        if _is_damaged(record, home):
            continue
        if record.covers(chosen) and is_registered(record, averaging.register_as.address(home)):
            reason = f"the average up to step {trajectory.newest.step} {_ENDS[record.state]}"
            return NothingNew(
                reason=f"no checkpoint since: {reason}",
                run=trajectory.run,
                step=trajectory.newest.step,
                average=Store(home).here(record.average).path,
            )
    return None


def past_average(
    averaging: Averaging, trajectory: Trajectory, settings: str, home: Home
) -> AverageRecord | None:
    """The running mean to go on from, if checkpoints in it are no longer among the chosen."""
    if averaging.average.schedule != "swa":
        return None
    newest = trajectory.newest
    present = {each.identity for each in trajectory.chosen}
    for record in averages_of(home, averaging.name):
        same = (record.run, record.settings) == (trajectory.run, settings)
        if same and record.seen[-1].step < newest.step:
            if all(each.identity in present for each in record.seen):
                return None
            place = Store(home).here(record.average).path
            if Path(place).is_dir() and not _is_damaged(record, home):
                average = record.average.model_copy(update={"path": place})
                return record.model_copy(update={"average": average})
            _log.warning(
                "the running mean up to step %d is gone or changed, and checkpoints in it are gone:"
                " the mean begins again with those that are there",
                record.seen[-1].step,
            )
            return None
    return None


def ingredients(
    averaging: Averaging, trajectory: Trajectory, past: AverageRecord | None
) -> dict[str, float]:
    """Weight by reference, the oldest first; a running mean counts as the checkpoints in it."""
    references = [each.reference for each in trajectory.chosen]
    if past is None:
        return averaging.weights(references)
    known = {each.identity for each in past.seen}
    fresh = [each.reference for each in trajectory.chosen if each.identity not in known]
    total = len(past.seen) + len(fresh)
    return {past.average.path: len(past.seen) / total} | dict.fromkeys(fresh, 1 / total)


def path(trajectory: Trajectory, sources: Sources) -> PathReport:
    """The distances between the checkpoints; a path that looks odd is noted in the log."""
    on_path = [each for each in trajectory.chosen if each.reference in sources]
    ordered = [sources[each.reference] for each in on_path]
    names = [each.name for each in on_path]
    report = run_step(path_task, ordered, names, subject=f"{len(names)} checkpoints")
    for warning in report.warnings:
        _log.warning("warning: %s", warning)
    return report


def soup(
    averaging: Averaging,
    sources: Sources,
    deciding: Suite,
    searching: Suite,
    home: Home,
    evaluators: Evaluators,
) -> tuple[Mix, Chosen]:
    """The greedy soup of the checkpoints: a search, whose candidates are their means.

    Args:
        searching: the documents to choose by.
    """
    search = averaging.soup_search(list(sources))  # the newest comes first in a recipe
    found = searched(search, searching, deciding, dict(sources), home, None, evaluators)
    candidates = GreedySoup(search.recipe)
    made = candidates.soup(found.trials)
    taken = candidates.models(made)
    _log.info("greedy soup: %s", candidates.named(made))
    chosen = found.chosen
    if averaging.average.held_out:
        chosen = chosen._replace(of=_documents_of(searching, deciding))
    return Mix(dict.fromkeys(taken, 1 / len(taken)), made), chosen


def _documents_of(searching: Suite, deciding: Suite) -> str:
    """The documents of a choice in words, beside those of the decision."""
    if suite_digest(searching) == suite_digest(deciding):
        return f"the suite {searching.name}, which decides here too and so flatters the choice"
    halves = (searching.name, searching.split) == (deciding.name, deciding.split)
    return OTHER_HALF if halves and searching.part == "search" else f"the suite {searching.name}"


def best_alone(averaging: Averaging, sources: Sources, mix: Mix) -> SourceCheckpoint | None:
    """The best single checkpoint by the documents that a soup was chosen by; None without a soup,
    or where it has a suite of its own: then the deciding suite is asked."""
    if mix.soup is None or averaging.average.held_out:
        return None
    return list(sources.values())[::-1][mix.soup.order[0]]


def show(
    averaging: Averaging, trajectory: Trajectory, report: PathReport, mix: Mix
) -> dict[str, str]:
    """The trajectory on the run's page; the same as files for MLflow."""
    page = trajectory_markdown(trajectory, report, mix.weights, mix.soup)
    publish_report(averaging.name, "trajectory", page)
    files = {"trajectory.md": page, "reports/trajectory.json": trajectory.model_dump_json(indent=1)}
    if mix.soup:
        files["reports/greedy_soup.json"] = mix.soup.model_dump_json(indent=1)
    return files


def conclude(
    averaging: Averaging,
    trajectory: Trajectory,
    settings: str,
    past: AverageRecord | None,
    outcome: MergeOutcome,
    home: Home,
) -> None:
    """Note that these checkpoints are averaged: the last thing a run does for its average."""
    registration = outcome.registration
    present = {each.identity for each in trajectory.chosen}
    before = [each for each in past.seen if each.identity not in present] if past else []
    keep_average(
        home,
        AverageRecord(
            name=averaging.name,
            run=trajectory.run,
            settings=settings,
            seen=(*before, *trajectory.chosen),
            average=outcome.merged,
            state=outcome.state,
            registered=RegisteredAt(
                tracking_uri=canonical(home, registration.tracking_uri),
                model=registration.candidate.name,
                version=registration.candidate.version,
            )
            if registration
            else None,
        ),
    )


def retain(averaging: Averaging, home: Home) -> None:
    """Remove the averages that need not be kept."""
    keep = averaging.retention.keep
    if keep is None:
        return
    gone = run_step(
        retain_task,
        home,
        averaging.register_as.address(home),
        name=averaging.name,
        model=averaging.register_as.model,
        keep=keep,
        subject=f"the last {keep}",
    )
    if gone:
        megabytes = sum(item.bytes for item in gone) / 1e6
        _log.info(
            "took %d averages out of the store that nothing refers to, %.1f MB; what was registered"
            " waits in the quarantine until the next average",
            len(gone),
            megabytes,
        )


def was_removed(trajectory: Trajectory) -> Sequence[str]:
    """Names of chosen checkpoints that the training has removed since."""
    return [
        each.name
        for each in trajectory.chosen
        if Path(each.reference).is_absolute() and not Path(each.reference).is_dir()
    ]


def _is_damaged(record: AverageRecord, home: Home) -> bool:
    """Whether an average is there and differs from its record."""
    store = Store(home)
    average = store.here(record.average)
    problems = store.problems(average) if Path(average.path).exists() else []
    if problems:
        _log.warning(
            "warning: the average %s in the store has changed (%s): it does not count",
            average.object_id,
            some(problems),
        )
    return bool(problems)
