"""Which checkpoints an average has to beat: of its training, the champion, or one that is named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from flows.settings.averaging import Averaging
from flows.settings.pipeline import Pipeline
from flows.steps.baselines import champion, each_once, evaluate_all, referenced
from flows.steps.evaluating import score_each
from flows.steps.scores import Baseline, Inputs
from merge_core.homes.home import Home
from merge_core.operations.trajectory.records import Trajectory
from merge_core.records import SourceCheckpoint
from tasks.evaluation.evaluators import Evaluators
from tasks.evaluation.suite import Suite
from tasks.promotion.baselines import SPOKEN, ComparedWith
from tasks.records import EvaluationReport
from tasks.reports.names import distinct_names
from tasks.search.greedy_soup import ranking

Objective = Callable[[EvaluationReport, EvaluationReport], float]


def objective_of(averaging: Averaging) -> Objective:
    """What checkpoints and soups are ranked by: the measure of the gate that decides."""
    from tasks.promotion.objective import mean_change, overall  # scipy is slow to import

    return overall if averaging.promote.gate == "former" else mean_change


def evaluate_inputs(
    averaging: Averaging,
    pipeline: Pipeline,
    trajectory: Trajectory,
    sources: Mapping[str, SourceCheckpoint],
    best: SourceCheckpoint | None,
    suite: Suite,
    home: Home,
    beside: Path | None,
    evaluators: Evaluators,
    batch_size: int | None = None,
) -> Inputs:
    """Find and evaluate all that an average has to beat, and its checkpoints.

    Args:
        best: the best single checkpoint, where that is known.
    """
    latest = Baseline(SPOKEN["latest"], sources[trajectory.newest.reference])
    wanted = averaging.promote.baselines
    found: dict[str, Baseline] = {}
    for name in wanted:
        if name == "latest":
            found[name] = latest
        elif name == "best":
            best = best or _best(averaging, pipeline, trajectory, sources, suite, home, evaluators)
            found[name] = Baseline(SPOKEN["best"], best)
        elif name == "champion":
            serves = champion(pipeline, home, "the latest checkpoint")
            found[name] = Baseline("champion", serves) if serves else latest
        else:
            found[name] = Baseline(name, referenced(pipeline, name, home, beside))
    baselines = each_once([found[name] for name in wanted])
    first, *more = baselines
    known = {each.source.digest for each in baselines}
    singles = [each for each in sources.values() if each.digest != first.source.digest]
    judged = singles if pipeline.evaluate.experts else []
    named = {each.source.digest: (each.name, each.source) for each in baselines}
    rest = [each for each in judged if each.digest not in known]
    names = distinct_names([each.reference for each in rest])
    named |= {each.digest: (name, each) for each, name in zip(rest, names, strict=True)}
    reports = evaluate_all(pipeline, suite, named, known, home, evaluators, batch_size)
    return Inputs(
        baseline=first,
        report=reports[first.source.digest],
        others=tuple(
            ComparedWith(name=each.name, report=reports[each.source.digest]) for each in more
        ),
        experts=tuple(reports[each.digest] for each in judged),
        origin=None,
    )


def _best(
    averaging: Averaging,
    pipeline: Pipeline,
    trajectory: Trajectory,
    sources: Mapping[str, SourceCheckpoint],
    suite: Suite,
    home: Home,
    evaluators: Evaluators,
) -> SourceCheckpoint:
    references = [each.reference for each in trajectory.chosen if each.reference in sources]
    singles = [sources[reference] for reference in references]
    reports = score_each(pipeline, suite, singles, home, evaluators)
    objective = objective_of(averaging)
    return singles[ranking([objective(report, reports[-1]) for report in reports])[0]]
