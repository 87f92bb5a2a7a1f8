"""The files beside the weights: what a merge copies, what it leaves behind, what it refuses."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.program import app
from merge_core.errors import CheckpointError
from merge_core.files.digests import DigestMemo
from merge_core.files.read_only import make_removable
from merge_core.homes.home import Home
from merge_core.operations.merge import merge
from merge_core.output.manifest import read_manifest, verify_manifest
from merge_core.recipes.loading import parse_recipe
from merge_core.records import CheckpointManifest, SourceCheckpoint, TakenOver
from merge_core.runtime.compute import Compute
from tests.support.tiny_llama import base_weights, described, fine_tuned, write_llama

MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]
AUTO_MAP = {
    "AutoConfig": "configuration_own.OwnConfig",
    "AutoModelForCausalLM": "modeling_own.OwnModel",
    "AutoModel": "somebody/else--modeling_far.FarModel",
    "AutoTokenizer": ["tokenization_own.Own", None],
}


@pytest.fixture
def donor(tmp_path: Path) -> Path:
    """A base with a file of every kind; `tuned` beside it has the weights and the config alone."""
    weights = base_weights()
    write_llama(tmp_path / "base", weights)
    write_llama(tmp_path / "tuned", fine_tuned(weights, 1))
    return tmp_path / "base"


def put(directory: Path, files: dict[str, object]) -> None:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))


def sources(donor: Path) -> dict[str, SourceCheckpoint]:
    return {name: described(donor.parent / name) for name in ("base", "tuned")}


def merged(donor: Path, home: Home, out: Path | None = None, **options: bool) -> CheckpointManifest:
    recipe = {"merge_method": "task_arithmetic", "base_model": "base"}
    parsed = parse_recipe(recipe | {"models": [{"model": "tuned", "parameters": {"weight": 0.5}}]})
    return merge(parsed, sources(donor), home=home, out=out, compute=Compute("cpu"), **options)


def own_code(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text()) | {"auto_map": AUTO_MAP}
    put(
        directory,
        {
            "config.json": config,
            "configuration_own.py": "class OwnConfig: ...\n",
            "modeling_own.py": "from .configuration_own import O\nfrom .layers_own import L\n",
            "layers_own.py": "import torch\nL = 1\n",
            "modeling_far.py": "raise SystemExit\n",
            "train.py": "raise SystemExit\n",
        },
    )


def test_processors_and_modules_of_sentence_encoders_are_copied_byte_for_byte(
    donor: Path, home: Home, tmp_path: Path
) -> None:
    files = {
        "preprocessor_config.json": {"image_mean": [0.5]},
        "processor_config.json": {"processor_class": "X"},
        "video_preprocessor_config.json": {"fps": 2},
        "modules.json": MODULES,
        "config_sentence_transformers.json": {"prompts": {}},
        "sentence_bert_config.json": {"max_seq_length": 256},
        "1_Pooling/config.json": {"pooling_mode_mean_tokens": True},
        "sentencepiece.bpe.model": "bytes",
    }
    put(donor, files)
    manifest = merged(donor, home, tmp_path / "out")
    for name in files:
        assert (tmp_path / "out" / name).read_bytes() == (donor / name).read_bytes()
    listed = {file.name: file.sha256 for file in manifest.files}
    pooling = hashlib.sha256((donor / "1_Pooling/config.json").read_bytes()).hexdigest()
    assert listed["1_Pooling/config.json"] == pooling
    assert manifest.taken_over.copied == tuple(sorted(files.keys() - {"sentencepiece.bpe.model"}))
    assert manifest.taken_over.left_behind == ()
    assert "library_name: sentence-transformers" in (tmp_path / "out" / "README.md").read_text()
    subprocess.run(
        ["sha256sum", "-c", "--quiet", "--strict", "SHA256SUMS"], cwd=tmp_path / "out", check=True
    )


def test_every_copied_file_is_part_of_what_a_checkpoint_is(donor: Path, home: Home) -> None:
    put(donor, {"modules.json": MODULES, "1_Pooling/config.json": {"mean": True}})
    first = described(donor).digest
    manifest = merged(donor, home)
    assert described(Path(manifest.path)).digest == manifest.digest
    put(donor, {"1_Pooling/config.json": {"mean": False}})
    assert described(donor).digest != first
    assert merged(donor, home).object_id != manifest.object_id


def test_what_only_lies_beside_a_model_does_not_change_a_byte_of_the_result(
    donor: Path, home: Home, tmp_path: Path
) -> None:
    plain = merged(donor, home, tmp_path / "plain")
    put(donor, {"LICENSE": "terms", "notes.txt": "", "train.py": ""})
    beside = merged(donor, home, tmp_path / "beside")
    assert beside.taken_over.left_behind == ("LICENSE", "notes.txt", "train.py")
    assert beside.object_id == plain.object_id


def test_a_changed_or_missing_file_in_a_directory_below_is_noticed(donor: Path, home: Home) -> None:
    put(donor, {"modules.json": MODULES, "1_Pooling/config.json": {"mean": True}})
    manifest = merged(donor, home)
    memo = DigestMemo(None)
    assert verify_manifest(manifest, memo) == []
    path = Path(manifest.path) / "1_Pooling" / "config.json"
    assert path.stat().st_mode & 0o222 == 0
    make_removable(Path(manifest.path))
    path.chmod(0o644)
    path.write_text("{}")
    assert verify_manifest(manifest, memo) == ["1_Pooling/config.json has changed"]
    path.unlink()
    assert verify_manifest(manifest, memo) == ["1_Pooling/config.json is missing"]
    assert verify_manifest(merged(donor, home), memo) == [], "done again in its place"


def test_code_is_left_behind_unless_asked_for(donor: Path, home: Home, tmp_path: Path) -> None:
    own_code(donor)
    plain = merged(donor, home, tmp_path / "plain")
    assert not list((tmp_path / "plain").glob("*.py"))
    code = ("configuration_own.py", "layers_own.py", "modeling_own.py")
    assert plain.taken_over.code_left_behind == code
    assert set(plain.taken_over.left_behind) == {*code, "modeling_far.py", "train.py"}
    asked = merged(donor, home, tmp_path / "asked", copy_code=True)
    assert {path.name for path in (tmp_path / "asked").glob("*.py")} == set(code)
    assert asked.taken_over.copied == code
    assert asked.taken_over.code_left_behind == ()
    assert asked.taken_over.left_behind == ("modeling_far.py", "train.py")
    assert asked.plan_digest != plain.plan_digest
    assert described(tmp_path / "asked").digest == asked.digest


def test_what_stays_behind_is_named_and_leftovers_of_training_and_version_control_are_not(
    donor: Path, home: Home, tmp_path: Path
) -> None:
    put(
        donor,
        {
            "LICENSE": "terms",
            "notes.txt": "",
            "onnx/model.onnx": "",
            "modules.json": [*MODULES, {"path": "2_Dense"}],
            "1_Pooling/config.json": {},
            "2_Dense/config.json": {},
            "2_Dense/model.safetensors": "weights that are not merged",
            ".git/config": "",
            "training_args.bin": "",
            "pytorch_model.bin.index.json": {},
            "README.md": "---\n---\n",
        },
    )
    manifest = merged(donor, home, tmp_path / "out")
    left = ("2_Dense/model.safetensors", "LICENSE", "notes.txt", "onnx/")
    assert manifest.taken_over.left_behind == left
    assert manifest.taken_over.copied == (
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "modules.json",
    )
    assert read_manifest(tmp_path / "out").taken_over.copied == manifest.taken_over.copied


def test_the_command_says_in_one_line_what_stays_behind(
    donor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_code(donor)
    monkeypatch.setenv("COLUMNS", "300")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "merge_method: task_arithmetic\nbase_model: ./base\n"
        "models: [{model: ./tuned, parameters: {weight: 0.5}}]\n"
    )
    said = CliRunner().invoke(app, ["merge", str(recipe), str(tmp_path / "plain")])
    assert said.exit_code == 0, said.output
    (line,) = [line for line in said.output.splitlines() if "not copied  " in line]
    assert "train.py" in line
    assert "--copy-code copies configuration_own.py, layers_own.py, modeling_own.py" in line
    said = CliRunner().invoke(app, ["merge", str(recipe), str(tmp_path / "code"), "--copy-code"])
    assert said.exit_code == 0, said.output
    assert (tmp_path / "code" / "modeling_own.py").exists()
    assert "--copy-code copies" not in said.output


@pytest.mark.parametrize(
    "place",
    ["../outside", "/etc", "1_Pooling/../..", ".", "..", ".hidden", "a//b", "a" * 300, 7, None],
)
def test_modules_out_of_the_directory_are_refused(donor: Path, place: object) -> None:
    put(donor.parent / "outside", {"config.json": {"secret": True}})
    put(donor, {"modules.json": [{"path": place}]})
    with pytest.raises(CheckpointError, match=r"modules\.json points to"):
        described(donor)


@pytest.mark.parametrize("content", ["{}", "[", "[" * 100_000, "7", '["a"]'])
def test_a_damaged_list_of_modules_is_refused(donor: Path, content: str) -> None:
    put(donor, {"modules.json": content})
    with pytest.raises(CheckpointError, match=r"modules\.json"):
        described(donor)


@pytest.mark.parametrize(
    "name", ["preprocessor_config.json", "tokenizer.json", "1_Pooling/config.json", "1_Pooling"]
)
def test_a_link_out_of_the_directory_is_not_followed(
    donor: Path, home: Home, tmp_path: Path, name: str
) -> None:
    put(donor, {"modules.json": MODULES, "1_Pooling/config.json": {}})
    secret = tmp_path / "elsewhere"
    if name == "1_Pooling":
        (donor / name / "config.json").unlink()
        (donor / name).rmdir()
        secret.mkdir()
        put(secret, {"config.json": {"secret": True}})
    else:
        secret.write_bytes((donor / "tokenizer.json").read_bytes())
        (donor / name).unlink(missing_ok=True)
    (donor / name).symlink_to(secret)
    with pytest.raises(CheckpointError, match="a link that leaves the checkpoint's directory"):
        merged(donor, home, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", ["../../evil.Model", "/etc/passwd.x", "", "a/b.C", 7, None, {}])
def test_code_maps_name_nothing_but_files_of_the_directory(
    donor: Path, home: Home, tmp_path: Path, value: object
) -> None:
    put(donor.parent, {"evil.py": "raise SystemExit"})
    config = json.loads((donor / "config.json").read_text()) | {"auto_map": {"AutoModel": value}}
    put(donor, {"config.json": config})
    manifest = merged(donor, home, tmp_path / "out", copy_code=True)
    assert manifest.taken_over == TakenOver()


def test_a_manifest_of_an_older_version_is_still_read(donor: Path, home: Home) -> None:
    manifest = merged(donor, home)
    path = Path(manifest.path) / "mergeflow_manifest.json"
    body = json.loads(path.read_text())
    del body["taken_over"]
    path.chmod(0o644)
    path.write_text(json.dumps(body))
    assert read_manifest(path.parent).taken_over == TakenOver()
