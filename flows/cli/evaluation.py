"""Commands about one evaluation, and about the decision between several that are stored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import AsJson, Device, terminal_for
from merge_core.errors import RecipeError, StepError

if TYPE_CHECKING:
    from tasks.promotion.rule import PromotionRule
    from tasks.records import Decision


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to the program."""
    app.command(epilog="Example: `mergeflow evaluate merged/ starter --out merged.json`")(evaluate)
    app.command(epilog="Example: `mergeflow decide base.json merged.json --rule rule.yaml`")(decide)


def evaluate(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="A directory, Hub id or models:/ address.")
    ],
    suite: Annotated[
        str, typer.Argument(metavar="SUITE", help="A suite directory or a shipped suite's name.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="REPORT.json",
            help="Write the report, with every document's value, to a new file for `mergeflow"
            " decide`. What is in the home's cache already is not evaluated again.",
        ),
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Score one checkpoint with lm-eval."""
    from flows.terminal.reports import show_scores
    from merge_core.homes.home import Home
    from tasks.evaluation.evaluate import evaluate_checkpoint
    from tasks.evaluation.report_file import check_new, write_report
    from tasks.evaluation.suite import load_suite
    from tasks.sources.locate import fetch_all

    terminal = terminal_for(as_json)
    if out is not None:
        check_new(out)
    home = Home.discover()
    loaded = load_suite(suite)
    with terminal.progress() as progress:
        source = fetch_all([checkpoint], home, progress=progress)[checkpoint]
        report = None
        if out is not None:
            from tasks.evaluate import keep_evaluation, stored_evaluation

            report = stored_evaluation(home.cache, source, loaded, device)
        is_stored = report is not None
        if report is None:
            report = evaluate_checkpoint(
                source,
                loaded,
                device=device,
                scratch=home.scratch,
                logs=home.logs,
                progress=progress,
            )
            if out is not None:
                keep_evaluation(home.cache, source, loaded, device, report)
    if out is not None:
        write_report(report, out)
    if as_json:
        terminal.give(report.model_dump(mode="json"))
        return
    show_scores(terminal, [report])
    if out is not None:
        terminal.say(f"{'evaluated before; ' if is_stored else ''}the report is in {out}")


def decide(
    baseline: Annotated[
        Path,
        typer.Argument(metavar="BASELINE.json", help="Report of `mergeflow evaluate --out`."),
    ],
    candidate: Annotated[
        Path,
        typer.Argument(metavar="CANDIDATE.json", help="The report of what is to replace it."),
    ],
    expert: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="E.json",
            help="The report of a model that went into the merge; may be repeated.",
        ),
    ] = None,
    anchor: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="A.json",
            help="The report of one more baseline, which stays the same from run to run and has to"
            " be beaten too, more surely; may be repeated.",
        ),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw every interval against its limit, to a file."),
    ] = None,
    rule: Annotated[
        Path | None,
        typer.Option(
            metavar="RULE.yaml",
            help="A file with the keys that a pipeline has below `promote`, or with that key."
            " Default: the rule of a pipeline that has none.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Decide from stored evaluations alone. Exit code 0: promoted; 3: fell back, or unclear."""
    from flows.terminal.reports import show_decision
    from tasks.evaluation.report_file import check_new, check_same_tasks, read_report
    from tasks.promotion.bar import Bar
    from tasks.promotion.baselines import SPOKEN, ComparedWith
    from tasks.promotion.decision import decide as decided
    from tasks.promotion.rule import FORMER_GATE, PromotionRule, read_rule
    from tasks.reports.names import distinct_names

    terminal = terminal_for(as_json)
    asked = PromotionRule() if rule is None else read_rule(rule)
    if picture is not None:
        check_new(picture)
        _check_gate(asked, "--picture")
    if anchor:
        _check_gate(asked, "--anchor")
    files = [baseline, candidate, *(expert or ()), *(anchor or ())]
    reports = [read_report(file) for file in files]
    check_same_tasks(files, reports)
    base, merged, *others = reports
    experts, anchors = others[: len(expert or ())], others[len(expert or ()) :]
    called = "champion" if anchors else SPOKEN.get(asked.baselines[0], "base")
    more = [
        ComparedWith(name=name, report=report)
        for name, report in zip(
            distinct_names([a.reference for a in anchors]), anchors, strict=True
        )
    ]
    try:
        decision = decided(merged, Bar(asked, base, called, experts, more))
    except StepError as error:  # the reports are what was given, so they have to be mended
        raise RecipeError(error.what, where=error.where, mend=error.mend) from None
    if as_json:
        terminal.give(decision.model_dump(mode="json"))
    else:
        show_decision(terminal, decision, base, experts, merged)
        if asked.gate == "former":
            terminal.say(FORMER_GATE)
    if picture is not None:
        _draw(decision, picture)
    if not decision.promote:
        raise typer.Exit(3)


def _check_gate(rule: PromotionRule, option: str) -> None:
    if rule.gate == "former":
        raise RecipeError(
            f"{option} is for the calibrated gate, and this rule is of the former one",
            where="--rule",
            mend="leave out the keys of the former gate, or this option",
        )


def _draw(decision: Decision, file: Path) -> None:
    from tasks.reports.interval_plot import decision_png

    drawn = decision_png(decision)
    if drawn is None:
        return  # a candidate that could not be evaluated has no intervals
    try:
        with file.open("xb") as opened:
            opened.write(drawn)
    except OSError as error:
        raise RecipeError(f"cannot be written: {error.strerror}", where=str(file)) from None
