"""The search flow: from a space of recipes to the best one, and with it through the merge flow."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from prefect import flow, runtime
from prefect.client.schemas.objects import State

from flows.environment.starting_directory import enter
from flows.merge import ended, merged
from flows.run_step import UNSTORED
from flows.settings.parameter_words import in_our_words
from flows.settings.search import SearchPipeline
from flows.steps import merge as step
from flows.steps.artifacts import publish_report
from flows.steps.early_checks import check_pipeline, suite_of
from flows.steps.endings import failed, send_event
from flows.steps.evaluating import Asked, score, threads_of
from flows.steps.judging import Chosen
from flows.steps.locking import warn_of_changes
from flows.steps.searching import Trials, alone
from merge_core.files.private import write_private
from merge_core.homes.home import Home
from merge_core.records import Record, SourceCheckpoint
from merge_core.text.plain import plain_log
from tasks.candidate import Workshop, documents_in
from tasks.evaluate import stored_evaluation
from tasks.evaluation.evaluators import Evaluators
from tasks.evaluation.needs import check_needs
from tasks.evaluation.suite import Suite
from tasks.records import MergeOutcome
from tasks.registry.client import default_tracking_uri
from tasks.reports.names import distinct_names
from tasks.search.page import search_markdown, shares_said
from tasks.search.record import record_search
from tasks.search.sampling import Study, importances
from tasks.search.selection import best, candidates
from tasks.search.trial import Trial
from tasks.units import read_size

_log = plain_log("mergeflow")


class SearchOutcome(Record):
    """What a search found, and what the gate said of it."""

    search: str
    """Its name in the home's `search.db`."""
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
    return final_state(search, Path(beside) if beside else None)


in_our_words(search_merges, SearchPipeline, "search")


def final_state(search: SearchPipeline, beside: Path | None) -> State[SearchOutcome]:
    """Search inside the current flow run; the state that the run has to end in."""
    return ended(lambda home: _run(search, home, beside), lambda found: found.outcome)


def _run(search: SearchPipeline, home: Home, beside: Path | None) -> SearchOutcome:
    started = datetime.now(UTC)
    searching, deciding = search.halves(suite_of(search, home))
    check_pipeline(search, deciding, home, beside)
    search.search.as_space.check(search.recipe)
    resolved = step.resolve(search, home, beside)
    sources = resolved.sources
    warn_of_changes(search, home, sources)
    check_needs(deciding, sources[search.recipe.donor].directory)
    step.verify(search, sources)
    identity = search.identity(sources, searching)
    with alone(home, identity), Evaluators(home.scratch) as evaluators:
        trials, study = _trials(search, searching, sources, identity, home, beside, evaluators)
        found = trials.run()
        evaluators.close()
        return _decided(
            search, trials, study, found, deciding, resolved, started, home, beside, evaluators
        )


def _trials(
    search: SearchPipeline,
    suite: Suite,
    sources: dict[str, SourceCheckpoint],
    identity: str,
    home: Home,
    beside: Path | None,
    evaluators: Evaluators,
) -> tuple[Trials, Study]:
    """What went in is evaluated; candidates are compared with it."""
    donor = sources[search.recipe.donor]
    experts = [step.written_out(search, each, home) for each in sources.values() if each != donor]
    names = ["base", *distinct_names([each.reference for each in experts])]
    inputs = [donor, *(experts if search.evaluate.experts else ())]
    asked = [Asked(*each) for each in zip(inputs, names, strict=False)]
    how = search.evaluate
    if all(stored_evaluation(home.cache, each, suite, how.device) for each in inputs):
        # Else the process that evaluates these goes on with the candidates.
        evaluators.begin(suite, how.device, threads_of(how), how.parallel)
    base, *others = score(search, suite, asked, home, evaluators)
    rungs = None
    whole = search.search.full or search.search.sampler == "nsga-ii" or suite.settings.repeats > 1
    if not whole:
        from tasks.search.race import rungs_of  # scipy is slow to import

        rungs = rungs_of(base, others)
    counted = sum(each.task_weight != 0 for each in base.scores)
    study = Study(
        home,
        search.name,
        identity,
        search.model_dump(mode="json", by_alias=True),
        space=search.search.as_space,
        sampler=search.search.sampler,
        seed=search.search.seed,
        objectives=counted if search.search.sampler == "nsga-ii" else 1,
    )
    workshop = Workshop(
        home=home,
        sources=sources,
        suite=suite,
        device=search.evaluate.device,
        threads=threads_of(search.evaluate),
        evaluators=evaluators,
        batch_size=base.batch_size,
        shard_bytes=read_size(search.execution.shard_size),
        study=study.id,
    )
    return Trials(search, study, workshop, home, beside, base, rungs), study


def _decided(
    search: SearchPipeline,
    trials: Trials,
    study: Study,
    found: list[Trial],
    suite: Suite,
    resolved: step.Resolved,
    started: datetime,
    home: Home,
    beside: Path | None,
    evaluators: Evaluators,
) -> SearchOutcome:
    winner = best(found)
    assert winner is not None  # else `run` raises
    recipe = trials.recipe(winner)
    place = home.path / "searches" / f"{search.name}.yaml"
    write_private(place, recipe.to_yaml())
    files = _shown(search, study.id, found, recipe.to_yaml(), home)
    said = shares_said(found)
    _log.info(
        "the best of %d candidates is trial %d: %s", candidates(found), winner.number, winner.name
    )
    _log.info("time: %s", said)
    chosen = Chosen(candidates(found), documents_in([trials.base]), files)
    outcome = merged(
        search.model_copy(update={"recipe": recipe}),
        suite,
        resolved,
        started,
        home,
        beside,
        evaluators,
        chosen,
    )
    return SearchOutcome(
        search=study.id,
        best=winner,
        candidates=chosen.candidates,
        recipe=str(place),
        time=said,
        outcome=outcome,
    )


def _shown(
    search: SearchPipeline, study: str, trials: list[Trial], recipe: str, home: Home
) -> dict[str, str | bytes]:
    """The search on the run's page and in MLflow; its files for the merge's run."""
    from tasks.search.plots import importance_png, pareto_png, sweep_png  # slow to import

    pictures = {
        "sweep": sweep_png(trials),
        "importance": importance_png(importances(home, study)),
        "pareto": pareto_png(trials),
    }
    drawn = {name: picture for name, picture in pictures.items() if picture}
    page = search_markdown(search.name, trials, recipe, drawn)
    publish_report(search.name, "search", page)
    files: dict[str, str | bytes] = {f"search/{name}.png": png for name, png in drawn.items()}
    files["search/best-recipe.yaml"] = recipe
    files["search/search.md"] = page
    how = search.search
    params = {"sampler": how.sampler, "seed": str(how.seed), "trials": str(len(trials))}
    uri = search.register_as.tracking_uri or default_tracking_uri(home)
    record_search(uri, search.register_as.experiment, search.name, study, trials, params, files)
    return files
