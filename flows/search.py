"""The search flow: from a space of recipes to the best one, and with it through the merge flow."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from prefect import flow, runtime
from prefect.client.schemas.objects import State

from flows.environment.starting_directory import enter
from flows.merge import run_and_end, run_from_sources
from flows.run_step import UNSTORED
from flows.settings.parameter_words import in_our_words
from flows.settings.search import SearchPipeline
from flows.steps import merge as step
from flows.steps.early_checks import check_pipeline, suite_of
from flows.steps.endings import failed, send_event
from flows.steps.evaluating import threads_of
from flows.steps.locking import warn_of_changes
from flows.steps.recipe_elsewhere import recipe_elsewhere
from flows.steps.searched import Found, searched
from merge_core.files.private import write_private
from merge_core.homes.home import Home
from merge_core.records import Record
from merge_core.text.plain import plain_log
from tasks.evaluation.evaluators import Evaluators
from tasks.evaluation.needs import check_needs
from tasks.evaluation.suite import Suite
from tasks.records import MergeOutcome
from tasks.search.page import shares_said
from tasks.search.trial import Trial

_log = plain_log("mergeflow")


class SearchOutcome(Record):
    """What a search found, and what the gate said of it."""

    search: str
    """Its name in the database of searches."""
    best: Trial
    candidates: int
    recipe: str
    """File of the best recipe, to run again."""
    time: str
    """What the time of the trials went into."""
    outcome: MergeOutcome


def _run_name() -> str:
    return SearchPipeline.model_validate(runtime.flow_run.parameters["search"]).name


@flow(name="search", flow_run_name=_run_name, on_completion=[send_event], **UNSTORED)
def search_merges(search: SearchPipeline, beside: str | None = None) -> State[SearchOutcome]:
    """Merge and evaluate candidates on one half of the suite, and let the best one pass the gate on
    the other half.

    Ends as `merge_pipeline` does, with a `SearchOutcome`.

    Args:
        beside: directory that relative checkpoint paths start from; by default the current one.
    """
    try:
        enter()
    except Exception as error:
        return failed(error)
    return run_search(search, Path(beside) if beside else None)


in_our_words(search_merges, SearchPipeline, "search")


def run_search(search: SearchPipeline, beside: Path | None) -> State[SearchOutcome]:
    """Search inside the current flow run; the state that the run has to end in."""
    return run_and_end(lambda home: _run(search, home, beside), lambda found: found.outcome)


def _run(search: SearchPipeline, home: Home, beside: Path | None) -> SearchOutcome:
    started = datetime.now(UTC)
    searching, deciding = search.halves(suite_of(search, home))
    check_pipeline(search, deciding, home, beside)
    search.check_space()
    resolved = step.resolve(search, home, beside)
    sources = resolved.sources
    warn_of_changes(search, home, sources)
    check_needs(deciding, sources[search.recipe.donor].directory)
    with Evaluators(home.scratch) as evaluators:
        how = search.evaluate
        evaluators.begin(searching, how.device, threads_of(how), how.parallel)
        step.verify(search, sources)
        found = searched(search, searching, deciding, sources, home, beside, evaluators)
        return _decided(search, found, deciding, resolved, started, home, beside, evaluators)


def _decided(
    search: SearchPipeline,
    found: Found,
    suite: Suite,
    resolved: step.Resolved,
    started: datetime,
    home: Home,
    beside: Path | None,
    evaluators: Evaluators,
) -> SearchOutcome:
    place = home.path / "searches" / f"{search.name}.yaml"
    write_private(place, recipe_elsewhere(found.recipe, beside, home).to_yaml())
    said = shares_said(found.trials)
    _log.info("time: %s", said)
    outcome = run_from_sources(
        search.model_copy(update={"recipe": found.recipe}),
        suite,
        resolved,
        started,
        home,
        beside,
        evaluators,
        found.chosen,
    )
    return SearchOutcome(
        search=found.id,
        best=found.best,
        candidates=found.chosen.candidates,
        recipe=str(place),
        time=said,
        outcome=outcome,
    )
