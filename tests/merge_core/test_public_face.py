"""The library's public face, and modules under the names that the documentation gave them."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from merge_core import Compute, Home, merge
from merge_core.engine.run import run_plan
from merge_core.former_names import FORMER_MODULES
from merge_core.operations import execute
from merge_core.recipes.loading import parse_recipe
from tests.support.checkpoints import write_checkpoint


def answer(code: str, *options: str) -> str:
    """What a fresh interpreter prints after some code."""
    command = [sys.executable, *options, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_every_public_name_is_there() -> None:
    code = (
        "import merge_core; print([callable(getattr(merge_core, n)) for n in merge_core.__all__])"
    )
    assert answer(code).strip() == str(
        [name != "METHODS" for name in import_module("merge_core").__all__]
    )


def test_the_public_face_loads_no_room() -> None:
    code = """
import sys
import merge_core
print([name for name in sys.modules if name.startswith("merge_core.")])
"""
    assert answer(code).strip() == "['merge_core.former_names']"


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'mergee'"):
        import_module("merge_core").mergee  # noqa: B018


@pytest.mark.slow
def test_every_former_name_is_found_and_warns() -> None:
    code = f"""
import importlib, sys, warnings
for name, now in {FORMER_MODULES}.items():
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        former = importlib.import_module(name)
    present = sys.modules[now]
    public = [each for each in vars(present) if each[0] != "_"]
    warned = any(f"{{name}} is {{now}} now" in str(each.message) for each in told)
    same = all(getattr(former, each) is getattr(present, each) for each in public)
    print(name, warned and bool(public) and same)
"""
    assert answer(code).splitlines() == [f"{name} True" for name in FORMER_MODULES]


def test_a_public_function_can_be_called_whatever_was_imported_before() -> None:
    code = """
import merge_core
from merge_core.merge import merge as former
try:
    merge_core.merge()
except TypeError as error:
    print(former is merge_core.operations.merge.merge, "required" in str(error))
"""
    assert answer(code).split() == ["True", "True"]


def test_the_former_keywords_of_a_merge_are_fields_of_compute_and_warn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = {name: write_checkpoint(tmp_path / name, {"w": torch.ones(4)}) for name in "ab"}
    recipe = parse_recipe({"merge_method": "linear", "models": [{"model": it} for it in "ab"]})
    computed = []

    def noted(*arguments: Any, **options: Any) -> None:
        computed.append(arguments[2])
        run_plan(*arguments, **options)

    monkeypatch.setattr(execute, "run_plan", noted)
    whole = {"home": Home(tmp_path / "home"), "check": False}
    with pytest.warns(DeprecationWarning, match=r"fields of compute=Compute\(...\) now"):
        merge(recipe, sources, out=tmp_path / "former", device="cpu", threads=3, **whole)
    merge(recipe, sources, out=tmp_path / "now", compute=Compute("cpu", threads=3), **whole)
    assert computed == [Compute("cpu", threads=3)] * 2
    with pytest.raises(TypeError, match="unexpected keyword argument 'thread'"):
        merge(recipe, sources, out=tmp_path / "wrong", thread=3, **whole)


@pytest.mark.slow
def test_a_former_program_runs() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "flows.prefect_server"], capture_output=True, text=True
    )
    present = subprocess.run(
        [sys.executable, "-m", FORMER_MODULES["flows.prefect_server"]],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == present.returncode != 0
    assert ended.stderr.splitlines()[-1] == present.stderr.splitlines()[-1]
