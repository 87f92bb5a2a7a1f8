"""Mends of evaluations as files: where they are written, and what is decided from them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.model_zoo import Zoo
from tests.field.mends.situations import Situation, situations
from tests.support.followed_mends import Advice, Shell, Step

pytestmark = pytest.mark.slow  # `make field`

DECIDE = ("decide", "base.json", "better.json")
"""Exit status 0: promoted."""


def evaluate(out: str, model: str = "model") -> tuple[str, ...]:
    """The command that writes a report."""
    return ("evaluate", model, "suite", "--out", out)


def changed(here: Path, name: str, source: str = "base.json", **scores: Any) -> None:
    """Write another report: a real one with another score for each document of its only task."""
    values = json.loads((here / source).read_text())
    values["checkpoint_digest"] = f"{len(name):064x}"
    (score,) = values["scores"]
    score |= scores
    total = sum(score["values"]) / sum(score["weights"])
    score["score"] = 2.0**total if score["scale"] == "power_of_two" else total
    (here / name).write_text(json.dumps(values))


def better(here: Path, **scores: Any) -> None:
    """A report that is better by half a bit in every document than the base's."""
    (score,) = json.loads((here / "base.json").read_text())["scores"]
    values = [
        value - 0.5 * weight
        for value, weight in zip(score["values"], score["weights"], strict=True)
    ]
    changed(here, "better.json", **({"values": values} | scores))


def a_report_in_the_place_of_another(here: Path) -> Iterator[Step]:
    yield evaluate("base.json")
    yield evaluate("again.json")


def a_report_in_a_directory_that_is_not_there(here: Path) -> Iterator[Step]:
    yield evaluate("reports/base.json")
    (here / "reports").mkdir()
    yield evaluate("reports/base.json")


def a_file_that_is_no_report(here: Path) -> Iterator[Step]:
    better(here)
    kept = (here / "base.json").rename(here / "kept.json")
    (here / "base.json").write_text(json.dumps({"results": {"quiz": {"acc": 0.5}}}))
    yield DECIDE
    kept.unlink()
    (here / "base.json").unlink()
    (here / "base.json").write_text(written(here))
    yield DECIDE


def written(here: Path) -> str:
    """What the command that is advised writes."""
    from flows.cli.program import run

    assert run(list(evaluate("made.json"))) == 0
    return (here / "made.json").read_text()


def reports_of_other_tasks(here: Path) -> Iterator[Step]:
    better(here, task="another")
    yield DECIDE
    better(here)
    yield DECIDE


def reports_of_other_data(here: Path) -> Iterator[Step]:
    (here / "rule.yaml").write_text("gate: calibrated\n")
    (score,) = json.loads((here / "base.json").read_text())["scores"]
    better(here, doc_ids=[f"{each}-of-before" for each in score["doc_ids"]])
    yield (*DECIDE, "--rule", "rule.yaml")
    better(here)
    yield (*DECIDE, "--rule", "rule.yaml")


@pytest.mark.parametrize("situation", situations(globals()), ids=lambda each: each.__name__)
def test_report(
    situation: Situation, tiny_zoo: Zoo, here: Path, mergeflow: Shell, advice: Advice
) -> None:
    shutil.copytree(tiny_zoo.suite, here / "suite")
    (here / "model").symlink_to(tiny_zoo.base)
    file = here / "suite/suite.yaml"
    values = yaml.safe_load(file.read_text())
    values["tasks"] = [task for task in values["tasks"] if task["task"].endswith("bpb")][:1]
    file.write_text(yaml.safe_dump(values))
    mergeflow(*evaluate("base.json"))
    advice.follow(mergeflow, situation(here))
