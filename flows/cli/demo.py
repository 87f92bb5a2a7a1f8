"""The demo: example models trained here, a merge that is promoted, and one that falls back.

Nothing it says is written down beforehand: every number and both verdicts are measured.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from shlex import quote

from flows.model_zoo import build_zoo
from flows.stack.prefect_session import prefect_session
from flows.terminal.console import Terminal, seconds, shown_path
from merge_core.files.private import as_open_as, private_umask
from merge_core.homes.home import Home
from tasks.processes.shipped_files import are_installed, example, shipped
from tasks.records import MergeOutcome

_PIPELINES = shipped("configs") / "pipelines"
_GOOD, _BAD = _PIPELINES / "zoo-good.yaml", _PIPELINES / "zoo-bad.yaml"


def run_demo(directory: Path | None) -> bool:
    """Train the example models, run both pipelines, and say whether both ended as they should."""
    terminal, home, started = Terminal(), Home.discover(), time.monotonic()
    zoo = (directory or home.path / "zoo").absolute()
    os.environ["MERGEFLOW_ZOO"] = str(zoo)
    _train(terminal, zoo)
    with prefect_session(home) as prefect:
        from flows.cli.run import run_pipeline, show_outcome
        from flows.settings.pipeline import load_pipeline
        from tasks.registry.client import quiet_mlflow

        pipelines = [load_pipeline(_GOOD), load_pipeline(_BAD)]
        quiet_mlflow()
        prefect.ready()
        outcomes = []
        for number, loaded in enumerate(pipelines, start=2):
            terminal.say()
            pipeline = loaded.pipeline
            terminal.say(f"[{number}/3] {pipeline.name}: {pipeline.description}", "bold")
            outcome = run_pipeline(loaded, terminal)
            show_outcome(terminal, outcome)
            outcomes.append(outcome)
    return _conclude(terminal, outcomes, time.monotonic() - started)


def _train(terminal: Terminal, zoo: Path) -> None:
    known = (zoo / "zoo.json").exists()
    what = "found" if known else "trained on this machine, about two minutes, once"
    terminal.say(f"[1/3] example models: a small Llama, a code and a prose expert ({what})", "bold")
    started = time.monotonic()
    with terminal.progress() as progress, private_umask(), as_open_as(zoo.parent):
        build_zoo(zoo, progress=progress)
    terminal.say(f"  {shown_path(zoo)}  ({seconds(time.monotonic() - started)})")


def _conclude(terminal: Terminal, outcomes: list[MergeOutcome], duration: float) -> bool:
    good, bad = outcomes
    terminal.say()
    fallback = bad.registration.champion if bad.registration else None
    as_it_should = (
        good.state == "Promoted"
        and bad.state == "FellBack"
        and fallback is not None
        and fallback.digest == bad.base.digest
    )
    if not as_it_should:
        terminal.say("this is not how the demo should end; please report it", "bold red")
        return False
    terminal.say(
        f"The good merge was promoted, the bad one fell back to its base ({seconds(duration)}).",
        "bold",
    )
    command = _command("mergeflow")
    good_path = example("pipelines", "zoo-good.yaml")
    edit = f"edit a weight in {good_path}, run again", "only merge and evaluation are redone"
    if are_installed():
        edit = f"cp {good_path} .", "edit a weight in the copy and run it"
    stored = quote(shown_path(good.merged.path)[:-52])
    terminal.say("What to try next:")
    for line, why in (
        (f"{command} lineage models:/zoo-good@champion", "what the champion is made of"),
        (f"{command} run {good_path}", "again: every step is cached"),
        edit,
        (f"{command} check {stored}*", "is it still as it was made?"),
        (f"{command} up", "runs, models and forms in the browser"),
    ):
        terminal.say(f"  {line:<66}  # {why}")
    return True


def _command(name: str) -> str:
    """How this environment's program is called from here."""
    program = Path(sys.executable).parent / name
    on_path = shutil.which(name)
    return name if on_path and Path(on_path) == program else quote(shown_path(program))
