"""Which stored records a step takes: those of the former code, and those about its arguments."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect import Task, flow
from prefect.settings import (
    PREFECT_LOCAL_STORAGE_PATH,
    temporary_settings,
)

from flows.run_step import run_step
from flows.settings.pipeline import load_pipeline
from flows.stack.prefect_session import PrefectSession
from merge_core.files.own_files import NotOursError
from merge_core.homes.home import Home
from merge_core.operations.trajectory.path import PathReport
from merge_core.planning.plan import merge_inputs
from merge_core.records import Record, SourceCheckpoint
from merge_core.store.objects import Wanted
from tasks.caching import stored_records
from tasks.caching.stored_records import parse_record, stored_form
from tasks.calibrate import calibrate_task
from tasks.find import path_task
from tasks.merge import merge_task
from tasks.profile import profile_task
from tasks.promotion.bar import Bar
from tasks.records import EvaluationReport
from tasks.resolve import resolve_task
from tasks.sources.locate import Location
from tasks.verify import verify_task
from tests.support.former_records import FORMER, STEPS, former, policy, under
from tests.support.recorded_steps import recorded_steps


@pytest.fixture
def session(prefect: PrefectSession, home: Home) -> Iterator[PrefectSession]:
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: str(home.cache)}):
        yield prefect


@pytest.mark.parametrize("path", sorted((FORMER / "cache").iterdir()), ids=lambda path: path.name)
def test_a_record_of_the_former_code_is_believed_as_it_stands(path: Path) -> None:
    content = path.read_bytes()
    record = parse_record(content, path.name, policy(STEPS[path.name.split("-")[0]]).kind)
    again = stored_form(record, json.loads(content)["metadata"]["storage_key"])
    read = parse_record(again, path.name, type(record))
    assert read == record


def test_steps_of_the_former_code_are_hits(session: PrefectSession, home: Home) -> None:
    pipeline = load_pipeline(FORMER / "pipeline.yaml").pipeline
    home.cache.mkdir(parents=True)
    for path in (FORMER / "cache").iterdir():
        (home.cache / path.name).write_bytes(path.read_bytes())
    resolved = former("resolve")
    sources = {source.reference: source for source in resolved.values()}
    [(merged, manifest)] = former("merge").items()
    [decided] = former("decide")
    reports = {each.checkpoint_digest: each for each in former("evaluate").values()}
    base, expert = pipeline.recipe.references()
    rest = (reports[manifest.digest], Bar(pipeline.promote, reports[sources[base].digest]))

    @flow
    def pipeline_again() -> None:
        for key, source in resolved.items():
            place = Location(reference=source.reference, directory=source.path)
            assert run_step(under(key, "resolve"), place, home.digest_memo) == source
        recipe = pipeline.recipe
        inputs = merge_inputs(recipe, sources)
        wanted = Wanted(merged, recipe.digest, recipe.merge_method, inputs)
        assert run_step(merge_task, wanted, recipe, sources, home.path) == manifest
        [profiled] = former("profile")
        run_step(under(profiled, "profile"), sources[base], [sources[expert]])
        [verified] = former("verify")
        run_step(under(verified, "verify"), sources[base], [sources[expert]])
        run_step(under(decided, "decide"), *rest)

    with recorded_steps() as steps:
        pipeline_again()
    # Decisions are taken anew: their step has another version.
    assert {name for name, outcome in steps.all if outcome != "cached"} <= {"decide"}
    assert not list(home.cache.glob("set-aside-*"))


def test_a_class_that_was_renamed_is_known_by_its_former_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    [path, *_] = sorted((FORMER / "cache").glob("resolve-*"))
    content = path.read_bytes()
    record = parse_record(content, path.name, SourceCheckpoint)
    renamed = content.replace(b"merge_core.records.SourceCheckpoint", b"models.sources.Checkpoint")
    with pytest.raises(ValueError, match="does not hold what this step returns"):
        parse_record(renamed, path.name, SourceCheckpoint)
    present = "merge_core.records.SourceCheckpoint"
    monkeypatch.setitem(stored_records.FORMER_NAMES, "models.sources.Checkpoint", present)
    assert parse_record(renamed, path.name, SourceCheckpoint) == record
    assert b"models.sources" not in stored_form(record, str(path))


def changes(record: Record, **values: Any) -> Record:
    return record.model_copy(update=values)


def test_a_step_takes_only_records_that_are_about_its_arguments() -> None:
    [source, other] = former("resolve").values()
    [(plan, manifest)] = former("merge").items()
    recipe = load_pipeline(FORMER / "pipeline.yaml").pipeline.recipe
    sources = {each.reference: each for each in (source, other)}
    base, expert = (sources[reference] for reference in recipe.references())
    [verified] = former("verify").values()
    [profile] = former("profile").values()
    place = Location(reference=source.reference, directory=source.path)
    models = {"key": "", "base": base, "models": [expert]}
    wanted = Wanted(plan, recipe.digest, recipe.merge_method, merge_inputs(recipe, sources))
    planned = {"key": plan, "wanted": wanted, "recipe": recipe, "sources": sources}
    cases: list[tuple[Task[Any, Any], dict[str, Any], Record, list[Record]]] = [
        (
            resolve_task,
            {"key": "", "location": place},
            source,
            [
                other,
                changes(source, path="/elsewhere"),
                changes(source, digest="0" * 64),
                changes(source, files=other.files),
                changes(source, revision="main"),
            ],
        ),
        (
            resolve_task,
            {"key": "", "location": place.model_copy(update={"digest": "0" * 64})},
            changes(source),
            [],
        ),
        (
            merge_task,
            planned,
            manifest,
            [
                changes(manifest, plan_digest="0" * 64),
                changes(manifest, recipe_digest="0" * 64),
                changes(manifest, digest="0" * 64),
                changes(manifest, object_id="0" * 64),
                changes(manifest, path="/evil"),
                changes(manifest, files=()),
                changes(manifest, inputs=()),
                changes(manifest, inputs=(changes(manifest.inputs[0], digest="0" * 64),)),
            ],
        ),
        (
            verify_task,
            {**models, "scan_weights": True},
            verified,
            [
                changes(verified, scanned=False),
                changes(verified, base=expert.reference),
                changes(verified, rows=verified.rows[1:]),
                changes(verified, rows=(verified.rows[0], verified.rows[0])),
            ],
        ),
        (
            profile_task,
            {**models, "densities": (0.1, 0.2, 0.5)},
            profile,
            [changes(profile, base="x"), changes(profile, models=("x",))],
        ),
        (
            path_task,
            {"key": "", "sources": [source, other], "names": ["a", "b"]},
            PathReport(distances=(None, 0.5), warnings=()),
            [PathReport(distances=(None,), warnings=())],
        ),
        (
            calibrate_task,
            {"key": "k", "source": source},
            changes(source, path="/home/store/statistics/k"),
            [
                source,
                changes(source, path="/home/store/statistics/k", digest="0" * 64),
            ],
        ),
    ]
    for task, arguments, record, wrong in cases:
        fits = policy(task).fits
        assert fits(record, **arguments) == bool(wrong), task.name
        for each in wrong:
            assert not fits(each, **arguments), (task.name, each)


def test_an_evaluation_is_of_its_checkpoint_suite_and_libraries(tmp_path: Path) -> None:
    from tasks.evaluate import _fits
    from tasks.evaluation.suite import load_suite, suite_digest

    suite = load_suite("starter")
    [report, *_] = former("evaluate").values()
    from importlib.metadata import version

    right = changes(
        report,
        suite_digest=suite_digest(suite),
        lm_eval_version=version("lm-eval"),
        transformers_version=version("transformers"),
    )
    assert isinstance(right, EvaluationReport)
    source = SourceCheckpoint(reference="x", path="/x", digest=right.checkpoint_digest, files=())
    arguments: dict[str, Any] = {"checkpoint": source, "suite": suite, "device": "cpu"}
    assert _fits(right, **arguments)
    for name in ("checkpoint_digest", "suite_digest", "lm_eval_version", "transformers_version"):
        assert not _fits(right.model_copy(update={name: "other"}), **arguments), name
    assert not _fits(right.model_copy(update={"device": "cuda:0"}), **arguments)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("place", ["score", "values", "weights"])
def test_an_evaluation_with_a_number_that_is_not_finite_is_not_believed(
    place: str, number: str
) -> None:
    """JSON as Python writes it has such numbers; no comparison with one of them says anything."""
    path, stored, score = stored_evaluation()
    if place == "score":
        score["score"] = float(number)
    else:
        score[place][0] = float(number)
    with pytest.raises(NotOursError, match="one of its fields is not that of a EvaluationReport"):
        parse_record(again(stored), path.name, EvaluationReport)


@pytest.mark.parametrize("place", ["doc_ids", "values", "weights"])
def test_an_evaluation_with_a_document_too_few_is_not_believed(place: str) -> None:
    path, stored, score = stored_evaluation()
    score[place].pop()
    with pytest.raises(NotOursError, match="one of its fields is not that of"):
        parse_record(again(stored), path.name, EvaluationReport)


def stored_evaluation() -> tuple[Path, tuple[dict[str, Any], dict[str, Any]], dict[str, Any]]:
    """A stored evaluation, its parts and the first score in it, to be changed."""
    [path, *_] = sorted((FORMER / "cache").glob("evaluate-*"))
    stored = json.loads(path.read_bytes())
    result = json.loads(stored["result"])
    assert parse_record(again((stored, result)), path.name, EvaluationReport)
    return path, (stored, result), result["data"]["scores"][0]


def again(parts: tuple[dict[str, Any], dict[str, Any]]) -> bytes:
    """The stored form of a result that was changed."""
    stored, result = parts
    return json.dumps(stored | {"result": json.dumps(result)}).encode()
