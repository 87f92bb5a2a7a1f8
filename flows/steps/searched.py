"""A whole search: what went in evaluated, the trials, what they found, on the run's page and in
MLflow. Of a search pipeline, and of an average that is a greedy soup.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flows.settings.search import SearchPipeline
from flows.steps import merge as step
from flows.steps.artifacts import publish_report
from flows.steps.evaluating import Asked, score, threads_of
from flows.steps.judging import Chosen
from flows.steps.searching import Trials, alone
from flows.steps.trials_in_mlflow import TrialsInMlflow
from merge_core.homes.home import Home
from merge_core.recipes.recipe import Recipe
from merge_core.records import SourceCheckpoint
from merge_core.text.plain import plain_log
from tasks.candidate import Workshop, documents_in
from tasks.evaluation.evaluators import Evaluators
from tasks.evaluation.suite import Suite
from tasks.registry.client import default_tracking_uri
from tasks.reports.names import distinct_names
from tasks.search.page import search_markdown
from tasks.search.postgresql import alone_in, read_search_database
from tasks.search.record import SearchRun
from tasks.search.sampling import Study, importances
from tasks.search.selection import best, candidates
from tasks.search.trial import Trial
from tasks.units import read_size

_log = plain_log("mergeflow")


@dataclass(frozen=True)
class Found:
    """What a search found."""

    id: str
    """Its name in the database of searches."""
    trials: list[Trial]
    best: Trial
    recipe: Recipe
    """Of the best one."""
    chosen: Chosen
    """For the decision on it."""


def searched(
    search: SearchPipeline,
    suite: Suite,
    deciding: Suite,
    sources: dict[str, SourceCheckpoint],
    home: Home,
    beside: Path | None,
    evaluators: Evaluators,
) -> Found:
    """Search until the budget is spent, and show what was found.

    Args:
        suite: the documents to choose by.
        deciding: those that decide on what was chosen. The process for them gets ready while the
            last candidates are evaluated, and is all that is left in `evaluators`.

    Raises:
        StepError: this search runs elsewhere, or no candidate could be evaluated.
    """
    identity, address = search.identity(sources, suite), read_search_database(home)
    with alone(home, identity), alone_in(address, identity):
        trials = _trials(search, suite, sources, identity, home, beside, evaluators, address)
        with TrialsInMlflow(_in_mlflow(search, trials.study, home)) as in_mlflow:
            how = search.evaluate
            get_ready = partial(evaluators.begin, deciding, how.device, threads_of(how))
            known = trials.run(in_mlflow.note, get_ready)
            evaluators.close(but=deciding)
            winner = best(known)
            assert winner is not None  # else `run` raises
            recipe = trials.recipe(winner)
            explained = {}
            if len({name for trial in known for name in trial.values}) > 1:  # slow to import
                explained = importances(home, trials.study.id, address)
            files = _shown(search, known, recipe, explained)
            in_mlflow.end(trials.kept(known), files)
    number = candidates(known)
    _log.info("the best of %d candidates is trial %d: %s", number, winner.number, winner.name)
    chosen = Chosen(number, documents_in([trials.base]), files)
    return Found(trials.study.id, known, winner, recipe, chosen)


def _trials(
    search: SearchPipeline,
    suite: Suite,
    sources: dict[str, SourceCheckpoint],
    identity: str,
    home: Home,
    beside: Path | None,
    evaluators: Evaluators,
    address: str | None,
) -> Trials:
    """What went in is evaluated; candidates are compared with it."""
    donor = sources[search.recipe.donor]
    experts = [step.written_out(search, each, home) for each in sources.values() if each != donor]
    names = ["base", *distinct_names([each.reference for each in experts])]
    how, soup = search.evaluate, search.soup
    inputs = [donor, *(experts if how.experts and not soup else ())]  # a soup tries each alone
    asked = [Asked(*each) for each in zip(inputs, names, strict=False)]
    base, *others = score(search, suite, asked, home, evaluators)
    counted = sum(each.task_weight != 0 for each in base.scores)
    several = search.search.sampler == "nsga-ii"
    study = Study(
        home,
        search.name,
        identity,
        search.model_dump(mode="json", by_alias=True),
        space=search.search.as_space,
        sampler=search.search.sampler,
        seed=search.search.seed,
        objectives=counted if several else 1,
        address=address,
    )
    workshop = Workshop(
        home=home,
        sources=sources,
        suite=suite,
        device=how.device,
        threads=threads_of(how),
        evaluators=evaluators,
        batch_size=base.batch_size,
        shard_bytes=read_size(search.execution.shard_size),
        study=study.id,
    )
    whole = search.search.full or several or suite.settings.repeats > 1
    return Trials(search, study, workshop, home, beside, base, others, whole, soup)


def _in_mlflow(search: SearchPipeline, study: Study, home: Home) -> SearchRun:
    how = search.search
    return SearchRun(
        tracking_uri=search.register_as.tracking_uri or default_tracking_uri(home),
        experiment=search.register_as.experiment,
        name=search.name,
        study=study.id,
        params={"sampler": how.sampler, "seed": str(how.seed)},
    )


def _shown(
    search: SearchPipeline, trials: list[Trial], recipe: Recipe, explained: dict[str, float]
) -> dict[str, str | bytes]:
    """The search on the run's page; its files for MLflow."""
    from tasks.search.plots import importance_png, pareto_png, sweep_png  # slow to import

    pictures = {
        "sweep": sweep_png(trials),
        "importance": importance_png(explained),
        "pareto": pareto_png(trials),
    }
    drawn = {name: picture for name, picture in pictures.items() if picture}
    page = search_markdown(search.name, trials, recipe.to_yaml(), drawn)
    publish_report(search.name, "search", page)
    files: dict[str, str | bytes] = {f"search/{name}.png": png for name, png in drawn.items()}
    files["search/best-recipe.yaml"] = recipe.to_yaml()
    files["search/search.md"] = page
    return files
