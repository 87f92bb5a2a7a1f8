"""`mergeflow diagnose`: what it writes, what it refuses, and what it says of odd recipes."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.cli.program import run
from flows.model_zoo import Zoo
from flows.settings.search import load_search
from flows.steps.diagnosing import strengths_of
from merge_core.homes.home import Home
from merge_core.recipes.loading import parse_recipe
from tests.support.tiny_llama import base_weights, fine_tuned, write_llama


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base, two fine-tunes of it, a broken one and a stranger, beside the current directory."""
    base = base_weights()
    write_llama(tmp_path / "m/base", base)
    for seed, name in enumerate(("one", "two")):
        write_llama(tmp_path / "m" / name, fine_tuned(base, seed))
    broken = fine_tuned(base, 3)
    broken["model.norm.weight"][2] = float("nan")
    write_llama(tmp_path / "m/broken", broken)
    write_llama(tmp_path / "m/stranger", base_weights(seed=9))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "m"


def recipe(directory: Path, *names: str, base: str | None = "./base", **more: Any) -> str:
    """A recipe file beside the models, which it names as neighbours."""
    listed = [{"model": f"./{name}", "parameters": {"weight": 0.5}} for name in names]
    content = {
        "merge_method": "task_arithmetic" if base else "linear",
        **({"base_model": base} if base else {}),
        "models": listed,
        **more,
    }
    path = directory / "my recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def said(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> str:
    assert run(["diagnose", *arguments]) == code
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_a_page_and_a_search_that_names_the_models_from_where_it_is(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = said([recipe(models, "one", "two")], capsys)
    page, search = Path("my recipe-diagnosis.html"), Path("my recipe-diagnosis-search.yaml")
    assert page.read_text().startswith("<!doctype html>")
    assert "Playground" in page.read_text()
    loaded, _ = load_search(search)
    assert loaded.recipe.base_model == str(models / "base")
    assert "Nothing was evaluated. With --suite SUITE" in shown
    assert "Start with task arithmetic, weights of about 0.5" in shown
    again = said([recipe(models, "one", "two")], capsys, 2)
    assert "my recipe-diagnosis.html: exists already" in again


def test_json_is_one_value_without_the_sample_and_writes_no_file(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["diagnose", recipe(models, "one", "two"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["models"] == ["./one", "./two"]
    assert "sample" not in found["weights"]
    assert found["weights"]["profile"]["overall"]["cosines"][0] == pytest.approx(0, abs=0.1)
    assert found["advice"][0]["sure"] == "likely"
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("names", "more", "words"),
    [
        (("broken", "one"), {}, "'model.norm.weight' holds NaN or infinity"),
        (("nowhere",), {}, "there is no such directory"),
    ],
)
def test_what_cannot_be_diagnosed_is_refused(
    models: Path,
    capsys: pytest.CaptureFixture[str],
    names: tuple[str, ...],
    more: dict[str, Any],
    words: str,
) -> None:
    shown = said([recipe(models, *names, **more)], capsys, 2)
    assert words in shown
    assert "what to do: " in shown
    assert list(Path().iterdir()) == []


def test_the_only_model_of_a_recipe_gets_a_base(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = said([recipe(models, "one", base=None)], capsys, 2)
    assert "this recipe names only one" in shown
    mend = "name the checkpoint that the model was fine-tuned from as base_model, or list another"
    assert mend in shown
    shown = said([recipe(models, "one"), "--out", "other.html"], capsys)
    assert "other-search.yaml" in shown
    assert Path("other.html").exists()


def test_without_a_base_it_says_what_a_base_would_show(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = said([recipe(models, "one", "two", base=None)], capsys)
    assert "The recipe names no base, so there are no task vectors" in shown
    assert "Start with the plain mean" in shown
    assert "Playground" not in Path("my recipe-diagnosis.html").read_text()


def test_a_stranger_among_the_models_is_told_and_no_lesser_advice_beside_it(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = said([recipe(models, "one", "stranger")], capsys)
    assert "Do not merge before this is mended: name the checkpoint" in shown
    assert "[likely]" not in shown
    assert "[perhaps]" not in shown


def test_a_disk_without_room_leaves_no_file_that_refuses_the_same_command(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    file = recipe(models, "one", "two")
    for place in (".", "..", "/"):
        assert "exists already" in said([file, "--out", place], capsys, code=2)
    said([file, "--json"], capsys)  # what was measured is kept
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))  # the page is longer
    try:
        shown = said([file], capsys, code=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "cannot be written" in shown
    assert "see that you may write there and that there is room, then run it again" in shown
    assert list(Path().iterdir()) == []
    said([file], capsys)
    assert len(list(Path().iterdir())) == 2


def test_a_suite_that_is_not_there_is_told_before_any_work(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = said([recipe(models, "one", "two"), "--suite", "nosuch"], capsys, 2)
    assert "no suite 'nosuch'" in shown
    assert "hash" not in shown


def test_the_strength_of_a_model_is_its_weight_and_the_scale() -> None:
    models = [{"model": "a", "parameters": {"weight": 0.5}}, {"model": "b"}]
    document = {"merge_method": "task_arithmetic", "base_model": "base", "models": models}
    scaled = parse_recipe({**document, "parameters": {"weight": 2, "lambda": 0.5}})
    assert strengths_of(scaled, ["a", "b"]) == {0: 0.25, 1: 1.0}
    by_layer = parse_recipe({**document, "parameters": {"weight": [0.1, 0.9]}})
    assert strengths_of(by_layer, ["a", "b"]) == {0: 0.5}
    trimmed = {**document, "merge_method": "ties", "parameters": {"weight": 2}}
    assert strengths_of(parse_recipe(trimmed), ["a", "b"]) == {}, "ties divides by the weights"


@pytest.mark.slow
def test_merges_on_the_way_are_evaluated_once(
    tiny_zoo: Zoo, home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = [
        {"model": str(tiny_zoo.directory / name), "parameters": {"weight": 0.5}}
        for name in ("code-expert", "other-run")
    ]
    content = {"merge_method": "task_arithmetic", "base_model": str(tiny_zoo.base)}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**content, "models": listed, "dtype": "bfloat16"}))
    arguments = ["diagnose", str(path), "--suite", str(tiny_zoo.suite), "--json"]
    assert run([*arguments, "--out", str(tmp_path / "a.html")]) == 0
    found = json.loads(capsys.readouterr().out)
    curves = found["curves"]
    assert (curves["evaluated"], curves["known"]) == (16, 0)
    assert not list(home.scratch.glob("mergeflow-*")), "merges are removed"
    base, own, line = curves["curves"][0]["points"][0], *curves["curves"][1:]
    assert base["change"] == 0.0
    assert own["points"][4]["scores"] == line["points"][-1]["scores"], "the same model"
    assert line["barrier"]["height"] > 0.0, "strangers"
    loaded, _ = load_search(tmp_path / "a-search.yaml")
    assert loaded.evaluate.suite == str(tiny_zoo.suite)

    assert run([*arguments, "--out", str(tmp_path / "b.html")]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["curves"]["evaluated"], again["curves"]["known"]) == (0, 16)
    assert again["curves"]["curves"] == curves["curves"]
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
