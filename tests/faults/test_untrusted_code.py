"""Nothing that a checkpoint brings along is run: no pickles, no own code, no YAML objects."""

from __future__ import annotations

import ast
import json
import pickle
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.cli.program import run
from merge_core.checkpoints.sources import describe_adapter, describe_source
from merge_core.errors import CheckpointError
from merge_core.files.digests import DigestMemo
from tests.support.tiny_llama import base_weights, fine_tuned, write_llama

ROOT = Path(__file__).parents[2]
PACKAGES = ("merge_core", "tasks", "flows", "mergeflow")
SAFE_LOADERS = {"SafeLoader", "BoundedLoader", "StrictLoader", "_Loader", "loader"}


class Touch:
    """An object whose pickle makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@cache
def calls() -> list[tuple[str, str, ast.Call]]:
    """Every call in mergeflow's own code: its place, the function's dotted name, the call."""
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call):
                    place = f"{path.relative_to(ROOT)}:{node.lineno}"
                    found.append((place, ast.unparse(node.func), node))
    return found


def keywords(call: ast.Call) -> dict[str | None, str]:
    return {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}


def test_no_call_unpickles_or_evaluates() -> None:
    forbidden = {"eval", "exec", "torch.load", "pickle.load", "pickle.loads", "joblib.load"}
    forbidden |= {"marshal.loads", "shelve.open", "pickle.Unpickler", "numpy.load", "np.load"}
    assert [place for place, name, _ in calls() if name in forbidden] == []


def test_yaml_is_loaded_by_safe_loaders_alone() -> None:
    loads = [each for each in calls() if each[1] in ("yaml.load", "yaml.load_all", "yaml.compose")]
    assert loads, "the check sees none of the calls that it is about"
    unsafe = ("yaml.full_load", "yaml.unsafe_load", "yaml.full_load_all", "yaml.unsafe_load_all")
    assert [place for place, name, _ in calls() if name in unsafe] == []
    for place, _, call in loads:
        assert keywords(call).get("Loader", "").split(".")[-1] in SAFE_LOADERS, place


def test_whatever_loads_a_model_says_that_remote_code_is_off() -> None:
    loads = [each for each in calls() if each[1].endswith((".from_pretrained", "ObservedLM"))]
    assert len(loads) >= 4
    for place, _, call in loads:
        given = keywords(call)
        assert given.get("trust_remote_code") == "False" or given.get(None) == "safe", place
    source = (ROOT / "tasks" / "registry" / "loader.py").read_text("utf-8")
    assert 'safe = {"local_files_only": True, "trust_remote_code": False}' in source


@pytest.mark.parametrize("form", ["pickle", "zip"])
@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "pytorch_model.bin", "adapter_model.bin", "adapter_model.safetensors"],
)
def test_a_pickle_under_any_name_is_refused_and_not_loaded(
    name: str, form: str, tmp_path: Path
) -> None:
    path, trace = tmp_path / "c" / name, tmp_path / "loaded"
    path.parent.mkdir()
    content = pickle.dumps(Touch(trace))
    if form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", content)
    else:
        path.write_bytes(content)
    (path.parent / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    describe = describe_adapter if name.startswith("adapter") else describe_source
    with pytest.raises(CheckpointError, match="pickle"):
        describe("c", path.parent, DigestMemo(None))
    assert not trace.exists()
    pickle.loads(content)
    assert trace.exists(), "the pickle would have run code"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe of a base with code of its own, which leaves a trace when it is run."""
    weights = base_weights()
    code = f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n"
    auto_map = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    auto_map["AutoTokenizer"] = "own.Tokenizer"
    config = {"model_type": "of-its-own", "architectures": ["OwnLM"], "auto_map": auto_map}
    write_llama(tmp_path / "base", weights, config=config)
    write_llama(tmp_path / "tuned", fine_tuned(weights, 1), config=config)
    for name in ("base", "tuned"):
        (tmp_path / name / "own.py").write_text(code)
    path = tmp_path / "recipe.yaml"
    content = {
        "merge_method": "task_arithmetic",
        "base_model": "./base",
        "models": [{"model": "./tuned", "parameters": {"weight": 0.5}}],
    }
    path.write_text(yaml.safe_dump(content))
    return path


def test_code_that_a_config_names_is_not_run_and_not_copied(recipe: Path, tmp_path: Path) -> None:
    assert run(["verify", str(recipe)]) == 0
    assert run(["merge", str(recipe), str(tmp_path / "out")]) == 0
    assert not (tmp_path / "out" / "own.py").exists()
    assert not (tmp_path / "ran").exists()


def test_code_that_is_asked_for_by_name_is_copied_and_still_not_run(
    recipe: Path, tmp_path: Path
) -> None:
    assert run(["merge", str(recipe), str(tmp_path / "out"), "--copy-code"]) == 0
    assert (tmp_path / "out" / "own.py").exists()
    assert not (tmp_path / "ran").exists()


def test_a_model_with_code_of_its_own_is_not_loaded_to_be_measured(
    recipe: Path, tmp_path: Path
) -> None:
    from tasks.calibration.model import load_model, load_tokenizer
    from tasks.processes.model import Problem

    config = json.loads((tmp_path / "base" / "tokenizer_config.json").read_text())
    config["auto_map"] = {"AutoTokenizer": ["own.Tokenizer", None]}
    (tmp_path / "base" / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(Problem):
        load_model(tmp_path / "base", None, "cpu", [])
    with pytest.raises(Problem):
        load_tokenizer(tmp_path / "base")
    assert not (tmp_path / "ran").exists()
