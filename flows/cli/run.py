"""Running a pipeline for a person at a terminal: steps as they happen, then the outcome."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import Flow, tags
from pydantic import BaseModel
from rich.table import Table

from flows.merge import merge_pipeline
from flows.run_step import call_flow
from flows.settings.pipeline import LoadedPipeline
from flows.terminal.console import Terminal, add_row, cell, shown_path, table_of
from flows.terminal.reports import HOW_TO_READ, OUTCOME_STYLES, say_decision
from merge_core.text.plain import plain
from tasks.progress import listening
from tasks.records import MergeOutcome
from tasks.reports.next_steps import next_steps
from tasks.roles import MERGE, Roles


def run_pipeline(loaded: LoadedPipeline, terminal: Terminal) -> MergeOutcome:
    """Run a pipeline in the current Prefect session.

    Raises:
        MergeflowError: what ended the run, for a person to mend.
    """
    pipeline = loaded.pipeline
    suite = pipeline.evaluate.suite.rstrip("/").rpartition("/")[2]
    labels = (pipeline.recipe.merge_method, plain(suite))
    outcome: MergeOutcome = run_flow(terminal, merge_pipeline, pipeline, loaded.beside, *labels)
    return outcome


def run_flow(
    terminal: Terminal, flow: Flow[..., Any], settings: BaseModel, beside: Path, *labels: str
) -> Any:
    """Run a flow in the current Prefect session, its steps and its progress shown.

    Args:
        beside: the directory that paths in the settings start from.
        labels: tags of the run in Prefect.

    Raises:
        MergeflowError: what ended the run, for a person to mend.
    """
    with terminal.steps(), terminal.progress() as progress, listening(progress), tags(*labels):
        return call_flow(flow, settings, str(beside))


def show_outcome(terminal: Terminal, outcome: MergeOutcome) -> None:
    """The scores side by side, the verdict with its reasons, and which checkpoint to serve."""
    terminal.say()
    if outcome.decision.comparisons:
        terminal.notes.print(_scores(outcome))
        terminal.say(f" {HOW_TO_READ}")
    for name, lines in outcome.odd_answers.items():
        for line in lines:
            terminal.warn(f"{name}: {line}")
    terminal.say()
    roles = Roles(outcome.baseline, outcome.is_average)
    say_decision(terminal, outcome.decision, roles.the_candidate, roles.the_baseline)
    for step in next_steps(outcome.decision, is_average=outcome.is_average):
        terminal.say(f"  next      {step}")
    terminal.say(f"  serve     {shown_path(outcome.serve)}")
    registration = outcome.registration
    if registration is not None:
        champion = registration.champion
        kinds = {outcome.merged.digest: roles.the_candidate}
        is_base = roles == MERGE
        kinds[outcome.base.digest] = "the base checkpoint" if is_base else roles.the_baseline
        what = kinds.get(champion.digest, "an earlier checkpoint")
        terminal.say(
            f"  champion  models:/{champion.name}@champion is version {champion.version}, {what}"
            f" ({champion.digest[:12]})"
        )
        if registration.champion_stays:
            terminal.say(f"            it keeps the alias: {registration.champion_stays}")
            if outcome.decision.promote:
                candidate = registration.candidate
                terminal.say(
                    f"  candidate models:/{candidate.name}/{candidate.version} is better and"
                    " registered, and does not serve"
                )


def _scores(outcome: MergeOutcome) -> Table:
    roles = Roles(outcome.baseline, outcome.is_average)
    called = {"base": roles.baseline, "merged": roles.candidate}
    numbers = (*(called.get(each, each) for each in outcome.scores), "change")
    table = table_of("task", "metric", *numbers, right=numbers, edge=True)
    for comparison in outcome.decision.comparisons:
        task, style = comparison.task, OUTCOME_STYLES[comparison.outcome]
        add_row(
            table,
            task,
            f"{comparison.metric} {'↑' if comparison.higher_is_better else '↓'}",
            *(f"{scores[task]:.3f}" for scores in outcome.scores.values()),
            cell(f"{comparison.improvement:+.3f}", style),
        )
    return table
