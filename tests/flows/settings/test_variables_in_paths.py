"""Variables in paths: three that are places, alike in files and in forms, and a word for others."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.settings.merge_form import recipe_of
from flows.settings.pipeline import check_places, load_pipeline
from merge_core.errors import CheckpointError
from merge_core.homes.home import Home
from merge_core.homes.variables import expand_variables
from tests.support.small_suite import write_suite

PIPELINE = "name: nightly\nrecipe: $HOME/recipe.yaml\nevaluate: {suite: '$HOME/suite'}\n"
RECIPE = "merge_method: linear\nmodels: [{model: $HOME/a}, {model: '${HOME}/b'}]\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A user's directory with two models, a suite and a recipe in it, and a home."""
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.setenv("MERGEFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MERGEFLOW_ZOO", raising=False)
    for name in "ab":
        (tmp_path / "me" / name).mkdir(parents=True)
    write_suite(tmp_path / "me" / "suite")
    (tmp_path / "me" / "recipe.yaml").write_text(RECIPE)
    return Home(tmp_path / "home")


def test_three_variables_are_places(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    me = home.path.parent / "me"
    assert expand_variables("$HOME/a") == expand_variables("${HOME}/a") == f"{me}/a"
    assert expand_variables("$MERGEFLOW_HOME/x", home) == f"{home.path}/x"
    assert expand_variables("$MERGEFLOW_ZOO/x", home) == f"{home.path}/zoo/x"
    monkeypatch.setenv("MERGEFLOW_ZOO", "/zoo")
    assert expand_variables("$MERGEFLOW_ZOO/x", home) == "/zoo/x"


@pytest.mark.parametrize("written", ["$TOKEN/a", "${TOKEN}/a", "./runs/$TOKEN", "$MISSING"])
def test_no_other_is_read(home: Home, written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "hidden")
    with pytest.raises(CheckpointError, match="is not replaced here") as told:
        expand_variables(written, home)
    assert "hidden" not in str(told.value)


def test_files_and_forms_take_the_same(home: Home, tmp_path: Path) -> None:
    """The digest is that of the text, wherever it leads."""
    file = tmp_path / "pipeline.yaml"
    file.write_text(PIPELINE)
    loaded = load_pipeline(file)
    check_places(loaded)
    named = recipe_of("${HOME}/recipe.yaml", home, "recipe")
    typed = recipe_of(RECIPE, home, "recipe")
    assert named.recipe.digest == typed.recipe.digest == loaded.pipeline.recipe.digest
    assert loaded.pipeline.recipe.references() == ["$HOME/a", "${HOME}/b"]
