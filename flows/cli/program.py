"""The command `mergeflow`: one entry, one place where errors become messages and exit codes.

0: done, or promoted. 3: the pipeline fell back to the base. 2: the input has to be mended.
4: a checkpoint has changed since it was made. 1: a step failed otherwise, or there is a bug.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from flows.cli import (
    adapters,
    audit,
    average,
    champion,
    check,
    diagnose,
    evaluation,
    gc,
    library,
    lineage,
    pipeline,
    reproduce,
    search,
    signing,
    stack,
)
from flows.cli import home as cli_home
from merge_core.errors import MergeflowError, NoSuchFileError, StepError
from tasks.processes.own_python import guard_this_process
from tasks.processes.shipped_files import example, namesakes

_WITHOUT_REGISTRY = {"check", "decide", "home", "keys", "methods"}
_WITHOUT_PREFECT = _WITHOUT_REGISTRY | {
    *("adapter", "env", "explain", "merge", "plan", "profile", "task-vector", "verify"),
}
PROMOTED, FAILED, BAD_INPUT, FELL_BACK, STOPPED = 0, 1, 2, 3, 130

app = typer.Typer(
    name="mergeflow",
    help="Merge fine-tuned language models: verified, evaluated, promoted only if better.",
    epilog="First steps: `mergeflow demo`, then"
    f" `mergeflow run {example('pipelines', 'zoo-good.yaml')}`."
    " Exit codes: 0 done or promoted, 3 fell back to the base, 2 bad input, 4 a"
    " checkpoint has changed, 1 failure.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
pipeline.add_commands(app)
evaluation.add_commands(app)
average.add_commands(app)
gc.add_commands(app)
stack.add_commands(app)
library.add_commands(app)
adapters.add_commands(app)
cli_home.add_commands(app)
check.add_commands(app)
lineage.add_commands(app)
champion.add_commands(app)
audit.add_commands(app)
reproduce.add_commands(app)
signing.add_commands(app)
search.add_commands(app)
diagnose.add_commands(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"mergeflow {version('mergeflow')}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Options of `mergeflow` itself."""
    if context.invoked_subcommand not in _WITHOUT_PREFECT:
        from flows.environment.settings_beside import refuse_settings_beside

        refuse_settings_beside()
    if context.invoked_subcommand in _WITHOUT_REGISTRY:
        return
    from merge_core.homes.home import Home
    from tasks.servers.stack_record import find_registry

    home = Home.if_believed(make=False)
    if home.is_believed:
        find_registry(home)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code. Errors have been explained on stderr."""
    try:
        with _told_of_homes():
            app(args=list(arguments) if arguments is not None else None)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if code == STOPPED:
            sys.stderr.write("stopped; the same command goes on where this one was\n")
        return code
    except MergeflowError as error:
        from flows.terminal.console import explain

        explain(_with_shipped(error) if isinstance(error, NoSuchFileError) else error)
        return FAILED if isinstance(error, StepError) else BAD_INPUT
    except BrokenPipeError:
        sys.stderr.close()
        return FAILED
    except Exception as error:
        from flows.terminal.console import explain, explain_bug
        from flows.terminal.outside_faults import outside_fault

        fault = outside_fault(error)
        if fault is None:
            explain_bug(error)
            return FAILED
        explain(fault)
        return FAILED if isinstance(fault, StepError) else BAD_INPUT
    return PROMOTED


def _with_shipped(error: NoSuchFileError) -> NoSuchFileError:
    """The error, with the path of a shipped file that has the name which was given."""
    found = namesakes(Path(error.where or "").name)
    if not found:
        return error
    paths = " or ".join(shlex.quote(str(path)) for path in found)
    return NoSuchFileError(
        error.what,
        where=error.where,
        mend=f"mergeflow ships one of this name: give its path, or that of a copy: {paths}",
    )


class _Words(logging.Handler):
    """Warnings on stderr about changes to a home, and about files that it cannot guard."""

    def emit(self, record: logging.LogRecord) -> None:
        from flows.terminal.console import Terminal

        Terminal(machine=True).warn(record.getMessage())


@contextlib.contextmanager
def _told_of_homes() -> Iterator[None]:
    logger, handler = logging.getLogger("mergeflow.home"), _Words()
    propagated, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated


def main() -> None:
    """The console script."""
    guard_this_process()
    sys.exit(run())


if __name__ == "__main__":
    main()
