"""Merge methods from outside the package: registered by a program, offered by an installed one."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from merge_core.errors import RecipeError
from merge_core.methods import method_named, register
from merge_core.methods.base import Method
from merge_core.methods.external import _registered, code_of
from merge_core.methods.linear import Linear
from tests.support.tiny_llama import base_weights, write_llama

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "custom_method.py"
RECIPE = """
merge_method: capped_task_arithmetic
base_model: base
models: [{model: near}, {model: far}]
parameters: {cap: 0.5}
dtype: float32
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    base = base_weights()
    write_llama(tmp_path / "base", base)
    write_llama(tmp_path / "near", {name: it + 0.01 for name, it in base.items()})
    write_llama(tmp_path / "far", {name: it - 0.05 for name, it in base.items()})
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def _package(root: Path, source: str, name: str = "capped_task_arithmetic") -> None:
    """An installed distribution that offers a method, as pip lays it out."""
    (root / "stranger_methods.py").write_text(source)
    info = root / "stranger_methods-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger-methods\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[mergeflow.methods]\n{name} = stranger_methods:CappedTaskArithmetic\n"
    )


def _mergeflow(
    *arguments: str, cwd: Path, program: str = "", packages: Path | None = None
) -> subprocess.CompletedProcess[str]:
    command = [program] if program else ["-P", "-m", "flows.cli.program"]
    root = str(EXAMPLE.parents[1])
    path = os.pathsep.join([root, *([str(packages)] if packages else [])])
    return subprocess.run(
        [sys.executable, *command, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": path, "MERGEFLOW_HOME": str(cwd / "home")},
        capture_output=True,
        text=True,
        timeout=120,
    )


def _expected() -> dict[str, torch.Tensor]:
    """The formula in one go; half of the median length caps both task vectors."""
    base = {name: it.double() for name, it in base_weights().items()}
    taus = [
        {name: (it.float() + step).double() - it for name, it in base.items()}
        for step in (0.01, -0.05)
    ]
    lengths = [sum(float((it * it).sum()) for it in tau.values()) ** 0.5 for tau in taus]
    longest = 0.5 * sum(lengths) / 2
    factors = [min(1.0, longest / length) / 2 for length in lengths]
    return {
        name: it + factors[0] * taus[0][name] + factors[1] * taus[1][name]
        for name, it in base.items()
    }


def test_example_merges_by_its_own_method(models: Path) -> None:
    ended = _mergeflow("recipe.yaml", "out", cwd=models, program=str(EXAMPLE))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    merged = load_file(models / "out" / "model.safetensors")
    for name, value in _expected().items():
        torch.testing.assert_close(merged[name].double(), value, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_installed_package_offers_a_method(models: Path, tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    source = EXAMPLE.read_text().replace("@register\n", "")
    _package(packages, source)
    ended = _mergeflow("merge", "recipe.yaml", "out", cwd=models, packages=packages)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    listed = _mergeflow("methods", cwd=models, packages=packages)
    assert "capped_task_arithmetic" in listed.stdout
    assert listed.stdout.index("capped_task_arithmetic") > listed.stdout.index("ties")
    _package(packages, source + "# another version\n")
    ended = _mergeflow("merge", "recipe.yaml", "again", cwd=models, packages=packages)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert _plan(models / "out") != _plan(models / "again")


@pytest.mark.slow
def test_a_package_that_cannot_be_loaded_is_named(models: Path, tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    _package(packages, "import nothing_of_this_name\n")
    ended = _mergeflow("merge", "recipe.yaml", "out", cwd=models, packages=packages)
    assert ended.returncode == 2
    assert "stranger-methods" in ended.stderr
    assert "nothing_of_this_name" in ended.stderr
    assert "what to do: mend or uninstall stranger-methods" in ended.stderr
    assert "Traceback" not in ended.stderr
    listed = _mergeflow("methods", cwd=models, packages=packages)
    assert listed.returncode == 0
    assert "ties" in listed.stdout
    _package(packages, EXAMPLE.read_text().replace("@register\n", ""))
    mended = _mergeflow("merge", "recipe.yaml", "out", cwd=models, packages=packages)
    assert mended.returncode == 0, mended.stderr


def test_a_package_cannot_take_the_name_of_a_method(models: Path, tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    _package(packages, "raise SystemExit('run')\n", name="linear")
    (models / "linear.yaml").write_text(
        "merge_method: linear\nmodels: [{model: near}, {model: far}]\n"
    )
    ended = _mergeflow("merge", "linear.yaml", "out", cwd=models, packages=packages)
    assert ended.returncode == 0, ended.stderr


def test_unknown_methods_are_looked_for_outside_too() -> None:
    with pytest.raises(RecipeError, match="unknown method 'capped_task_arithmetik'"):
        method_named("capped_task_arithmetik")


def test_a_name_that_is_taken_is_refused() -> None:
    class Mine(Linear):
        pass

    with pytest.raises(RecipeError, match="'linear' is taken") as refused:
        register(Mine)
    assert refused.value.mend == "give the class another `name`"
    Mine.name = "mine"
    try:
        register(Mine)
        assert isinstance(method_named("mine"), Mine)
    finally:
        del _registered["mine"]


def test_a_class_that_is_in_no_file_is_refused_and_taken_from_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (
        "from merge_core.methods.linear import Linear\n\n\n"
        'class Loose(Linear):\n    name = "loose"\n'
    )
    typed: dict[str, type[Linear]] = {}
    exec(source, {}, typed)  # as one types it at Python's prompt
    with pytest.raises(RecipeError, match="has no source file") as refused:
        code_of(typed["Loose"]())
    assert "define the class in a Python file" in str(refused.value.mend)
    (tmp_path / "loose_method.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    made = import_module("loose_method").Loose()
    assert code_of(made) == hashlib.sha256(source.encode()).hexdigest()


def test_an_incomplete_class_is_refused() -> None:
    class Nothing(Method):
        name = "nothing"

    with pytest.raises(RecipeError, match="lacks summary, paper"):
        register(Nothing)


def _plan(out: Path) -> str:
    return str(json.loads((out / "mergeflow_manifest.json").read_text())["plan_digest"])
