"""Mends of suites, data, references and decisions: what is told before anything runs."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from merge_core.homes.home import Home
from merge_core.recipes.parts import Calibration
from tasks.calibration.samples import data_file, draw_samples
from tasks.evaluation.suite import SHIPPED, load_suite
from tasks.promotion.rule import PromotionRule
from tasks.records import EvaluationReport, TaskScore
from tasks.registry.client import check_address
from tasks.sources.references import parse_reference
from tests.field.mends.situations import Situation, situations
from tests.support.decisions import decide
from tests.support.followed_mends import Advice, Shell, Step

pytestmark = pytest.mark.slow  # `make field`


def suite(here: Path, **changes: Any) -> Path:
    """A copy of a shipped suite, with changes."""
    directory = here / "suite"
    if not directory.exists():
        shutil.copytree(SHIPPED / "starter", directory)
    file = directory / "suite.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changes))
    return directory


def listed(task: str, metric: str = "acc", **keys: Any) -> list[dict[str, Any]]:
    """A suite's `tasks` with one task."""
    return [{"task": task, "metric": metric, **keys}]


def a_suite_with_another_name(here: Path) -> Iterator[Step]:
    yield (load_suite, "startr")
    yield (load_suite, "starter")


def a_suite_of_no_name(here: Path) -> Iterator[Step]:
    yield (load_suite, "no/such/suite/anywhere")
    yield (load_suite, suite(here) / "suite.yaml")


def a_directory_without_a_suite(here: Path) -> Iterator[Step]:
    yield (load_suite, here / "a")
    yield (load_suite, suite(here))


def a_key_of_a_suite(here: Path) -> Iterator[Step]:
    file = suite(here) / "suite.yaml"
    right = file.read_text()
    file.write_text(right.replace("settings:", "setings:"))
    yield (load_suite, here / "suite")
    file.write_text(right)
    yield (load_suite, here / "suite")


def a_metric_of_a_task(here: Path) -> Iterator[Step]:
    yield (
        load_suite,
        suite(here, tasks=listed("starter_facts", "perplexity", higher_is_better=False)),
    )
    yield (load_suite, suite(here, tasks=listed("starter_facts", "acc")))


def a_direction_that_is_not_known(here: Path) -> Iterator[Step]:
    tasks = here / "suite/tasks"
    suite(here)
    file = tasks / "starter_facts.yaml"
    file.write_text(file.read_text().replace("metric: acc", "metric: odd"))
    yield (load_suite, suite(here, tasks=listed("starter_facts", "odd")))
    yield (load_suite, suite(here, tasks=listed("starter_facts", "odd", higher_is_better=True)))


def a_task_of_its_own_that_is_misspelt(here: Path) -> Iterator[Step]:
    yield (load_suite, suite(here, tasks=listed("starter_fact")))
    yield (load_suite, suite(here, tasks=listed("starter_facts")))


def a_task_of_lm_eval_that_is_misspelt(here: Path) -> Iterator[Step]:
    yield (load_suite, suite(here, tasks=listed("hellaswagg")))
    yield (load_suite, suite(here, tasks=listed("hellaswag")))


def a_task_that_is_like_none(here: Path) -> Iterator[Step]:
    yield (load_suite, suite(here, tasks=listed("qqqqqqqqqqqq")))
    yield (load_suite, suite(here, tasks=listed("starter_facts")))


def a_misspelt_task_where_none_is_its_own(here: Path) -> Iterator[Step]:
    (here / "empty").mkdir()
    yield (load_suite, suite(here, include=None, tasks=listed("hellaswagg")))
    yield (load_suite, suite(here, include=None, tasks=listed("hellaswag")))


def no_task_where_none_is_its_own(here: Path) -> Iterator[Step]:
    yield (load_suite, suite(here, include=None, tasks=listed("qqqqqqqqqqqq")))
    yield (load_suite, suite(here, include=None, tasks=listed("arc_easy")))


def data_that_is_missing(here: Path) -> Iterator[Step]:
    kept = next((suite(here) / "data").glob("*facts*"))
    moved = kept.rename(here / "moved")
    yield (load_suite, here / "suite")
    moved.rename(kept)
    yield (load_suite, here / "suite")


def drawn(here: Path, **keys: Any) -> list[Any]:
    """The samples of a calibration."""
    calibration = Calibration(**({"data": "data.jsonl", "samples": 1} | keys))
    return draw_samples(calibration, data_file(calibration, here))


def lines(here: Path, *lines: object) -> None:
    """Write the data of a calibration."""
    (here / "data.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def no_data(here: Path) -> Iterator[Step]:
    yield (drawn, here)
    lines(here, {"text": "one"})
    yield (drawn, here)


def too_little_data(here: Path) -> Iterator[Step]:
    lines(here, {"text": "one"})
    yield (lambda: drawn(here, samples=3),)
    yield (lambda: drawn(here, samples=1),)


def data_without_a_line(here: Path) -> Iterator[Step]:
    lines(here)
    yield (drawn, here)
    lines(here, {"text": "one"})
    yield (drawn, here)


def data_that_is_no_json(here: Path) -> Iterator[Step]:
    (here / "data.jsonl").write_text("one\n")
    yield (drawn, here)
    lines(here, {"text": "one"})
    yield (drawn, here)


def data_under_another_key(here: Path) -> Iterator[Step]:
    lines(here, {"body": "one"})
    yield (drawn, here)
    yield (lambda: drawn(here, field="body"),)


def a_text_that_is_empty(here: Path) -> Iterator[Step]:
    lines(here, {"text": " "})
    yield (drawn, here)
    lines(here, {"text": "one"})
    yield (drawn, here)


def data_that_is_too_large(here: Path) -> Iterator[Step]:
    with (here / "data.jsonl").open("wb") as file:
        file.truncate((1 << 30) + 1)
    yield (drawn, here)
    lines(here, *({"text": f"line {number}"} for number in range(300)))
    yield (drawn, here)


def a_registered_name_that_is_none(here: Path) -> Iterator[Step]:
    yield (parse_reference, "models:/zoo")
    yield (parse_reference, "models:/zoo@champion")


def a_variable_that_is_not_known(here: Path) -> Iterator[Step]:
    yield (parse_reference, "$DATA/models")
    (here / "home/models").mkdir(parents=True)
    yield (parse_reference, "$MERGEFLOW_HOME/models", None, Home(here / "home"))


def a_file_as_a_checkpoint(here: Path) -> Iterator[Step]:
    yield (parse_reference, "./a/model.safetensors")
    yield (parse_reference, "./a")


def report(name: str, *scores: TaskScore, **changes: Any) -> EvaluationReport:
    """What an evaluation found."""
    values: dict[str, Any] = {
        "checkpoint_digest": name * 8,
        "reference": f"models/{name}",
        "suite": "s",
        "suite_digest": "d" * 64,
        "lm_eval_version": "0.4.13",
        "transformers_version": "5.0",
        "device": "cpu",
        "scores": scores,
    }
    return EvaluationReport(**(values | changes))


def score(task: str = "quiz", count: int = 400, broken: int = 0) -> TaskScore:
    """Half of the documents answered rightly."""
    right = count // 2
    values = {"non_finite": broken} if broken else {}
    return TaskScore(
        task=task,
        metric="acc",
        higher_is_better=True,
        score=right / count,
        doc_ids=tuple(f"{task}-{i}" for i in range(count)),
        values=(1.0,) * right + (0.0,) * (count - right),
        weights=(1.0,) * count,
        **values,
    )


def decided(base: EvaluationReport, rule: PromotionRule | None = None) -> str:
    """The verdict on a candidate that is as good as its base was when it was sound."""
    return decide(report("merged", score()), base, rule or PromotionRule()).verdict


def reports_of_two_versions(here: Path) -> Iterator[Step]:
    yield (decided, report("base", score(), lm_eval_version="0.5"))
    yield (decided, report("base", score()))


def reports_of_other_documents(here: Path) -> Iterator[Step]:
    former = PromotionRule(gate="former")
    yield (decided, report("base", score(count=300)), former)
    yield (decided, report("base", score()), former)


def a_baseline_without_numbers(here: Path) -> Iterator[Step]:
    yield (decided, report("base", score(broken=5)))
    yield (decided, report("base", score(broken=0)))


def an_address_that_is_none(here: Path) -> Iterator[Step]:
    yield (check_address, "mlruns")
    yield (lambda: check_address(f"sqlite:///{here}/mlflow.db", writing=True),)


def a_database_with_a_relative_path(here: Path) -> Iterator[Step]:
    yield (lambda: check_address("sqlite:///mlflow.db", writing=True),)
    yield (lambda: check_address(f"sqlite:///{here}/mlflow.db", writing=True),)


def a_database_that_is_not_there(here: Path) -> Iterator[Step]:
    yield (check_address, f"sqlite:///{here}/mlflow.db")
    database(here)
    yield (check_address, f"sqlite:///{here}/mlflow.db")


def database(here: Path) -> Path:
    """An SQLite database, as a first pipeline leaves one."""
    with contextlib.closing(sqlite3.connect(here / "mlflow.db")) as file:
        file.execute("CREATE TABLE t (x)")
    return here / "mlflow.db"


def a_database_that_is_damaged(here: Path) -> Iterator[Step]:
    (here / "mlflow.db").write_bytes(b"no database, but as long as one" * 40)
    yield (check_address, f"sqlite:///{here}/mlflow.db")
    (here / "mlflow.db").rename(here / "damaged.db")
    yield (lambda: check_address(f"sqlite:///{here}/mlflow.db", writing=True),)


def a_database_that_is_locked(here: Path) -> Iterator[Step]:
    with contextlib.closing(sqlite3.connect(database(here), isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield (check_address, f"sqlite:///{here}/mlflow.db")
    yield (check_address, f"sqlite:///{here}/mlflow.db")


def a_database_below_a_file(here: Path) -> Iterator[Step]:
    (here / "file").write_text("")
    yield (lambda: check_address(f"sqlite:///{here}/file/mlflow.db", writing=True),)
    yield (lambda: check_address(f"sqlite:///{here}/mlflow.db", writing=True),)


def a_database_with_too_long_a_name(here: Path) -> Iterator[Step]:
    yield (check_address, f"sqlite:///{here}/{'x' * 300}.db")
    yield (lambda: check_address(f"sqlite:///{here}/mlflow.db", writing=True),)


def a_server_that_is_away(here: Path) -> Iterator[Step]:
    yield (check_address, "http://127.0.0.1:9")
    yield (lambda: check_address(f"sqlite:///{here}/mlflow.db", writing=True),)


def an_evaluation_with_an_adapter(here: Path) -> Iterator[Step]:
    from merge_core.checkpoints.sources import describe_adapter, describe_source, with_adapter
    from merge_core.files.digests import DigestMemo
    from tasks.evaluation.evaluate import evaluate_checkpoint
    from tests.support.adapters import random_factors, write_adapter

    module = "model.layers.0.mlp.up_proj"
    write_adapter(here / "lora", random_factors({module: (8, 8)}, 2))
    memo = DigestMemo(None)
    base = describe_source("base", here / "base", memo)
    adapter = describe_adapter("lora", here / "lora", memo)
    made = with_adapter("base+lora", base, adapter)
    yield (lambda: evaluate_checkpoint(made, load_suite("starter"), scratch=here / "scratch"),)
    (here / "recipe.yaml").write_text(
        "merge_method: passthrough\nmodels: [{model: ./base+./lora}]\n"
    )
    yield ("merge", "recipe.yaml", "out")


@pytest.mark.parametrize("situation", situations(globals()), ids=lambda each: each.__name__)
def test_task(situation: Situation, here: Path, mergeflow: Shell, advice: Advice) -> None:
    advice.follow(mergeflow, situation(here))
