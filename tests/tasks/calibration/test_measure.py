"""Measuring models on data: the samples, the process, what is kept, the messages, the merge."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import flow
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings
from safetensors.torch import load_file

import tasks.calibration.measure
from flows.cli import program
from flows.model_zoo import Zoo
from flows.settings.pipeline import Pipeline
from flows.stack.prefect_session import PrefectSession
from flows.steps import merge as merge_steps
from merge_core.checkpoints.sources import describe_adapter, describe_source, with_adapter
from merge_core.errors import CheckpointError, RecipeError, StepError
from merge_core.files.digests import DigestMemo
from merge_core.homes.home import Home
from merge_core.operations.merge import merge
from merge_core.recipes.loading import parse_recipe
from merge_core.recipes.measurements import Measurement
from merge_core.recipes.parts import Calibration
from merge_core.records import SourceCheckpoint
from tasks.calibration.measure import calibrate, calibrate_all
from tasks.calibration.process import measure
from tasks.calibration.samples import draw_samples
from tests.support import tiny_architectures as tiny
from tests.support.adapters import random_factors, write_adapter
from tests.support.calibration import job_of, save_model
from tests.support.edited_objects import flip, loosen
from tests.support.recorded_steps import recorded_steps


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[], Any]], Path]:
    root = tmp_path_factory.mktemp("models")
    return lambda make: save_model(root, make)


def write_lines(path: Path, lines: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_samples_are_drawn_by_the_seed_and_blank_lines_are_none(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "data.jsonl", [{"text": f"line {i}"} for i in range(1, 21)])
    path.write_text("\n\n" + path.read_text() + "  \n")

    def drawn(**settings: Any) -> list[tuple[int, str]]:
        calibration = Calibration(data="data.jsonl", **settings)
        return [(sample.line - 2, sample.text) for sample in draw_samples(calibration, path)]

    first = drawn(samples=6)
    assert first == drawn(samples=6) != drawn(samples=6, seed=1)
    assert len(set(first)) == 6
    assert all(text == f"line {line}" for line, text in first)
    assert sorted(drawn(samples=20)) == [(line, f"line {line}") for line in range(1, 21)]


BAD_DATA: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "not JSON": ("hello\n", {}, ["line 1: this is not a JSON object"]),
    "a list": ("[1]\n", {}, ["line 1: this is not a JSON object"]),
    "another key": ('{"body": "x y"}\n', {}, ["no text under 'text'", "keys are: body", "field"]),
    "a wrong field": ('{"text": "x"}\n', {"field": "body"}, ["no text under 'body'"]),
    "an empty text": ('{"text": " "}\n', {}, ["line 1: the text is empty"]),
    "half a pair": ('{"prompt": "x"}\n', {}, ["nor prompt and completion"]),
    "too few lines": ('{"text": "x"}\n', {"samples": 3}, ["has 1 lines", "set samples: 1"]),
    "no lines": ("\n", {}, ["has 0 lines", "add lines to the file"]),
}


@pytest.mark.parametrize("fault", sorted(BAD_DATA))
def test_bad_data_is_named_with_its_line(fault: str, tmp_path: Path) -> None:
    text, settings, parts = BAD_DATA[fault]
    path = tmp_path / "data.jsonl"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        draw_samples(Calibration(**{"data": "data.jsonl", "samples": 1, **settings}), path)
    for part in parts:
        assert part in str(caught.value)


# The whole way, on trained models


def texts_of(zoo: Zoo) -> list[dict[str, str]]:
    files = sorted((zoo.suite / "data").glob("*_bpb.jsonl"))
    lines = [line for file in files for line in file.read_text().splitlines()[:24]]
    return [{"text": json.loads(line)["text"]} for line in lines]


@pytest.fixture
def data(tiny_zoo: Zoo, tmp_path: Path) -> Path:
    return write_lines(tmp_path / "data.jsonl", texts_of(tiny_zoo))


def zoo_recipe(method: str, zoo: Zoo, *models: Path, **changes: Any) -> dict[str, Any]:
    return {
        "merge_method": method,
        "models": [{"model": str(path)} for path in models or (zoo.code_expert, zoo.prose_expert)],
        "calibration": {"data": "data.jsonl", "samples": 24, "max_length": 64, **changes},
    }


def source(directory: Path) -> SourceCheckpoint:
    return describe_source(str(directory), directory, DigestMemo(None))


def test_merged_models_are_better_on_the_data_than_the_base(
    tiny_zoo: Zoo, data: Path, home: Home, tmp_path: Path
) -> None:
    calibration = Calibration(data=str(data), samples=24, max_length=64)
    samples = [[s.line, s.prompt, s.text] for s in draw_samples(calibration, data)]
    shared = {"samples": samples, "max_length": 64, "batch_size": 8}

    def loss(directory: Path) -> float:
        measure(job_of(directory, "loss", tmp_path / "loss", **shared), lambda _: None)
        return float(load_file(tmp_path / "loss" / "model.safetensors")["*"])

    experts = {str(path): source(path) for path in (tiny_zoo.code_expert, tiny_zoo.prose_expert)}
    base = loss(tiny_zoo.base)
    for method, statistic in (("fisher", "fisher"), ("regmean", "gram")):
        calibration = {}
        for number, (name, expert) in enumerate(experts.items()):
            out = tmp_path / f"{method}-{number}"
            measure(job_of(expert.directory, statistic, out, **shared), lambda _: None)
            calibration[name] = source(out)
        recipe = parse_recipe(zoo_recipe(method, tiny_zoo))
        manifest = merge(recipe, experts, home=home, check=False, calibration=calibration)
        assert loss(Path(manifest.path)) < base


@pytest.mark.slow
def test_mergeflow_merge_measures_once_and_finds_it_again(
    tiny_zoo: Zoo,
    data: Path,
    home: Home,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)  # the data's path starts from the recipe, not from here
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(zoo_recipe("fisher", tiny_zoo)))
    assert program.run(["plan", str(path)]) == 0
    assert "measures fisher of 2 models on 24 samples of data.jsonl" in capsys.readouterr().out
    assert not home.statistics.exists()

    assert program.run(["merge", str(path), "first", "--threads", "1"]) == 0
    kept = sorted(home.statistics.glob("*/*"))
    assert [file.name for file in kept] == ["measured.json", "model.safetensors"] * 2
    assert list(home.scratch.iterdir()) == []

    monkeypatch.setattr(tasks.calibration.measure, "run_child", None)  # nothing is measured again
    assert program.run(["merge", str(path), "second", "--threads", "2"]) == 0
    files = ("model.safetensors", "config.json", "mergeflow_recipe.yaml")
    assert all(Path("first", f).read_bytes() == Path("second", f).read_bytes() for f in files)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "date.jsonl"}, "date.jsonl"),
        ({"field": "body"}, "no text under 'body'"),
        ({"samples": 1000}, "1000 samples are wanted"),
    ],
)
def test_mergeflow_merge_says_what_is_wrong_with_the_data_before_it_reads_a_model(
    changes: dict[str, Any],
    message: str,
    tiny_zoo: Zoo,
    data: Path,
    home: Home,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(zoo_recipe("regmean", tiny_zoo, Path("nowhere"), **changes)))
    assert program.run(["merge", str(path), str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "what to do" in said
    assert "Traceback" not in said


@pytest.fixture
def loss_of() -> Callable[..., Measurement]:
    return lambda **changes: Measurement(
        "loss", Calibration(**{"data": "data.jsonl", "samples": 2, **changes})
    )


def test_a_process_that_takes_too_long_is_killed_and_said_so(
    tiny_zoo: Zoo, data: Path, home: Home, loss_of: Callable[..., Measurement]
) -> None:
    with pytest.raises(StepError, match=r"not finished in .* hours") as caught:
        calibrate(source(tiny_zoo.base), loss_of(), home=home, beside=data.parent, hours=1e-9)
    assert "samples" in str(caught.value.mend)
    assert not home.statistics.exists()


@pytest.mark.slow
def test_what_the_process_cannot_use_is_one_message(
    saved: Callable[[Callable[[], Any]], Path],
    data: Path,
    home: Home,
    loss_of: Callable[..., Measurement],
) -> None:
    encoder = source(saved(tiny.bert))
    with pytest.raises(CheckpointError, match="causal language models") as caught:
        calibrate(encoder, loss_of(), home=home, beside=data.parent, threads=1)
    assert caught.value.where == encoder.reference
    assert list(home.scratch.iterdir()) == []


def test_a_key_changes_with_everything_that_changes_a_number(
    tiny_zoo: Zoo, data: Path, loss_of: Callable[..., Measurement], tmp_path: Path
) -> None:
    base, expert = source(tiny_zoo.base), source(tiny_zoo.code_expert)

    def key(model: SourceCheckpoint = base, kind: str = "loss", **changes: Any) -> str:
        measurement = Measurement(kind, loss_of(**changes).calibration)
        return tasks.calibration.measure.calibration_key(model, measurement, data.parent)

    changes = [{"samples": 3}, {"seed": 1}, {"max_length": 9}, {"field": "x"}, {"batch_size": 1}]
    keys = [key(), key(expert), key(kind="gram"), *(key(**each) for each in changes)]
    first = key()
    (tmp_path / "moved.jsonl").write_bytes(data.read_bytes())
    assert key(data="moved.jsonl") == first
    with data.open("a") as file:
        file.write('{"text": "one more"}\n')
    assert len({*keys, key()}) == len(keys) + 1


def test_a_model_with_an_adapter_has_a_measurement_of_its_own(
    saved: Callable[[Callable[[], Any]], Path], tmp_path: Path, loss_of: Callable[..., Measurement]
) -> None:
    base = source(saved(tiny.llama))
    factors = random_factors({"model.layers.0.self_attn.q_proj": (16, 16)}, 2)
    place = write_adapter(tmp_path / "adapter", factors)
    adapted = with_adapter("a+b", base, describe_adapter("b", place, DigestMemo(None)))
    write_lines(tmp_path / "data.jsonl", [{"text": "abc"}] * 2)
    keys = {
        tasks.calibration.measure.calibration_key(each, loss_of(), tmp_path)
        for each in (base, adapted)
    }
    assert len(keys) == 2


def test_a_recipe_without_data_measures_nothing(home: Home) -> None:
    recipe = parse_recipe({"merge_method": "linear", "models": [{"model": "a"}]})
    assert calibrate_all(recipe, {}, calibrate) == {}


@pytest.fixture
def session(prefect: PrefectSession, home: Home) -> Iterator[PrefectSession]:
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: str(home.cache)}):
        yield prefect


@pytest.mark.slow
def test_a_flow_measures_a_model_once_and_again_when_the_result_is_damaged(
    session: PrefectSession, tiny_zoo: Zoo, data: Path, home: Home
) -> None:
    recipe = zoo_recipe("lm_cocktail", tiny_zoo, tiny_zoo.code_expert, samples=4)
    pipeline = Pipeline.model_validate(
        {"name": "mine", "recipe": recipe, "evaluate": {"suite": "starter"}}
    )
    sources = {str(tiny_zoo.code_expert): source(tiny_zoo.code_expert)}

    @flow
    def calibrating() -> Mapping[str, SourceCheckpoint]:
        return merge_steps.calibrate(pipeline, sources, home, data.parent)

    with recorded_steps() as steps:
        first = calibrating()
    assert [name for name, _ in steps.all] == ["calibrate loss of code-expert"]
    with recorded_steps() as steps:
        assert calibrating() == first
    assert steps.cached == {"calibrate loss of code-expert"}

    (found,) = first.values()
    kept = found.directory / "model.safetensors"
    whole = kept.read_bytes()
    loosen(found.directory)
    flip(kept)
    with recorded_steps() as steps:
        assert calibrating() == first
    assert [outcome == "cached" for _, outcome in steps.all] == [True, False]
    assert kept.read_bytes() == whole

    loosen(found.directory)
    flip(kept)
    record = found.directory / "measured.json"
    edited = source(found.directory).digest
    record.write_text(json.dumps(json.loads(record.read_text()) | {"digest": edited}))
    assert calibrating() == first
    assert kept.read_bytes() == whole, "edited with its digest, and measured again all the same"
