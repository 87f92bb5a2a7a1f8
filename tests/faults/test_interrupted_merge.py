"""A merge that is killed, starved or raced ends in a checkpoint or in something to resume."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from merge_core.engine.worker import Part, Work
from merge_core.errors import CheckpointError, CompatibilityError, NonFiniteError, OutputError
from merge_core.files.digests import DigestMemo
from merge_core.files.read_only import make_removable
from merge_core.homes.home import Home
from merge_core.operations.execute import execute
from merge_core.output.manifest import SUMS_NAME, read_manifest, verify_manifest
from merge_core.planning.plan import make_plan
from merge_core.recipes.loading import parse_recipe
from merge_core.records import SourceCheckpoint
from tests.support.checkpoints import run_recipe, write_checkpoint

RECIPE = {
    "merge_method": "ties",
    "base_model": "base",
    "models": [{"model": "a"}, {"model": "b"}],
    "parameters": {"weight": 0.5, "density": 0.3},
}

CHILD = """
import sys
from pathlib import Path
from merge_core.files.digests import DigestMemo
from merge_core.operations.execute import execute
from merge_core.homes.home import Home
from merge_core.planning.plan import make_plan
from merge_core.files.read_only import make_removable
from merge_core.recipes.loading import parse_recipe
from merge_core.checkpoints.sources import describe_source
from merge_core.runtime.compute import Compute
import tests.faults.test_interrupted_merge as here
root, out = Path(sys.argv[1]), Path(sys.argv[2])
zoo = {name: describe_source(name, root / name, DigestMemo(None)) for name in ("base", "a", "b")}
plan = make_plan(parse_recipe(here.RECIPE), zoo, shard_bytes=400_000)
print("ready", flush=True)
execute(plan, zoo, home=Home(root / "home"), out=out, compute=Compute(threads=2))
print("done", flush=True)
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zoo")


@pytest.fixture(scope="module")
def zoo(root: Path) -> dict[str, SourceCheckpoint]:
    zoo = {}
    for seed, name in enumerate(("base", "a", "b")):
        generator = torch.Generator().manual_seed(seed)
        tensors = {
            f"layers.{index}.weight": torch.randn(60_000, generator=generator).to(torch.bfloat16)
            for index in range(40)
        }
        zoo[name] = write_checkpoint(root / name, tensors)
    return zoo


def start(root: Path, out: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(root), str(out)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def test_a_resumed_merge_computes_only_what_is_not_in_the_journal(
    zoo: dict[str, SourceCheckpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first: list[int] = []
    again: list[int] = []
    real = Work.do

    def failing(self: Work, part: Part) -> None:
        if len(first) == 25:
            raise OutputError("the disk is full")
        first.append(part.index)
        real(self, part)

    def watching(self: Work, part: Part) -> None:
        again.append(part.index)
        real(self, part)

    monkeypatch.setattr(Work, "do", failing)
    with pytest.raises(OutputError):
        run_recipe(RECIPE, zoo, tmp_path / "out", threads=1)
    monkeypatch.setattr(Work, "do", watching)
    run_recipe(RECIPE, zoo, tmp_path / "out", threads=1)
    assert len(first) == 25
    assert len(again) == 15
    assert not set(first) & set(again)


def test_a_merge_killed_while_publishing_can_be_resumed_by_any_user(
    zoo: dict[str, SourceCheckpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from merge_core.output import staging

    plan, home = make_plan(parse_recipe(RECIPE), zoo), Home(tmp_path / "home")
    real = staging.sync

    def failing(path: Path) -> None:
        if path.name == "SHA256SUMS":
            raise OSError(28, "no space left on device")
        real(path)

    with monkeypatch.context() as patch:
        patch.setattr(staging, "sync", failing)
        with pytest.raises(OutputError):
            execute(plan, zoo, home=home)
    left = home.staging / plan.digest
    assert any(path.stat().st_mode & 0o222 == 0 for path in (left / "checkpoint").iterdir())
    with staging.Staging(left, plan) as again:
        again.prepare()
        assert len(again.finished) == len(plan.tensors)
        assert all(path.stat().st_mode & 0o200 for path in again.checkpoint.iterdir())
    assert verify_manifest(execute(plan, zoo, home=home), DigestMemo(None)) == []


@pytest.mark.slow
def test_two_processes_that_merge_the_same_end_with_one_checkpoint(
    root: Path, zoo: dict[str, SourceCheckpoint], tmp_path: Path
) -> None:
    plan = make_plan(parse_recipe(RECIPE), zoo)
    home = Home(tmp_path / "home")
    script = (
        CHILD.replace("out=out, ", "")
        .replace(", shard_bytes=400_000", "")
        .replace('Home(root / "home")', "Home(out)")
    )
    children = [
        subprocess.Popen([sys.executable, "-c", script, str(root), str(home.path)])
        for _ in range(2)
    ]
    assert [child.wait() for child in children] == [0, 0]
    objects = list(home.objects.iterdir())
    assert len(objects) == 1
    assert verify_manifest(read_manifest(objects[0]), DigestMemo(None)) == []
    assert list(home.staging.iterdir()) == []
    known = execute(plan, zoo, home=home)
    assert known.path == str(objects[0])
    assert not os.access(objects[0] / "model.safetensors", os.W_OK) or os.geteuid() == 0
    assert (objects[0] / "model.safetensors").stat().st_mode & 0o222 == 0


def test_missing_or_changed_bytes_of_a_published_merge_are_rebuilt(
    zoo: dict[str, SourceCheckpoint], tmp_path: Path
) -> None:
    plan = make_plan(parse_recipe(RECIPE), zoo)
    home = Home(tmp_path / "home")
    first = execute(plan, zoo, home=home)
    weights = Path(first.path) / "model.safetensors"
    make_removable(weights.parent)
    weights.chmod(0o644)
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert verify_manifest(first, DigestMemo(None)) == ["model.safetensors has changed"]
    again = execute(plan, zoo, home=home)
    assert again.object_id == first.object_id
    assert verify_manifest(again, DigestMemo(None)) == []
    make_removable(weights.parent)
    weights.unlink()
    assert verify_manifest(again, DigestMemo(None)) == ["model.safetensors is missing"]
    assert verify_manifest(execute(plan, zoo, home=home), DigestMemo(None)) == []


def test_an_output_that_exists_is_left_alone(
    zoo: dict[str, SourceCheckpoint], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(OutputError, match="already exists"):
        run_recipe(RECIPE, zoo, out)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_disk_too_small_is_noticed_before_anything_is_written(
    zoo: dict[str, SourceCheckpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Small:
        f_bavail, f_frsize = 10, 4096

    monkeypatch.setattr(os, "statvfs", lambda _path: Small)
    with pytest.raises(OutputError, match=r"0\.00 GB free, the merge needs"):
        run_recipe(RECIPE, zoo, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_nan_in_an_input_names_the_tensor_and_leaves_nothing(
    zoo: dict[str, SourceCheckpoint], tmp_path: Path
) -> None:
    sick = {
        f"layers.{index}.weight": torch.ones(60_000, dtype=torch.bfloat16) for index in range(40)
    }
    sick["layers.7.weight"][59_999] = float("nan")
    patient = zoo | {"a": write_checkpoint(tmp_path / "sick", sick)}
    with pytest.raises(NonFiniteError, match=r"layers\.7\.weight holds NaN") as caught:
        run_recipe(RECIPE, patient, tmp_path / "out")
    assert "sick" in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"home", "sick"}


def test_a_result_too_large_for_its_dtype_is_refused(tmp_path: Path) -> None:
    big = torch.full((10,), 60_000.0, dtype=torch.float16)
    zoo = {"a": write_checkpoint(tmp_path / "a", {"w": big})}
    recipe = {"merge_method": "passthrough", "models": [{"model": "a", "parameters": {"scale": 2}}]}
    with pytest.raises(NonFiniteError, match="float16 cannot hold") as caught:
        run_recipe(recipe, zoo, tmp_path / "out")
    assert caught.value.mend == "use smaller scales, or out_dtype: bfloat16 or float32"
    enormous = [{"model": "a", "parameters": {"scale": 1e36}}]
    with pytest.raises(NonFiniteError, match="bfloat16 cannot hold") as caught:
        run_recipe(recipe | {"out_dtype": "bfloat16", "models": enormous}, zoo, tmp_path / "out")
    assert caught.value.mend == "use smaller scales"


def test_integer_tensors_are_copied_when_they_agree_and_refused_when_not(tmp_path: Path) -> None:
    def model(name: str, ids: list[int]) -> SourceCheckpoint:
        tensors = {"w": torch.ones(4), "ids": torch.tensor(ids), "flag": torch.tensor([True])}
        return write_checkpoint(tmp_path / name, tensors)

    zoo = {"a": model("a", [1, 2]), "b": model("b", [1, 2]), "c": model("c", [1, 3])}
    same = {"merge_method": "linear", "models": [{"model": "a"}, {"model": "b"}]}
    run_recipe(same, zoo, tmp_path / "out")
    other = {"merge_method": "linear", "models": [{"model": "a"}, {"model": "c"}]}
    with pytest.raises(CompatibilityError, match="tensor ids holds int64 values that differ"):
        run_recipe(other, zoo, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_an_input_that_shrinks_after_it_was_planned_is_an_error(
    zoo: dict[str, SourceCheckpoint], tmp_path: Path
) -> None:
    zeros = torch.zeros(60_000, dtype=torch.bfloat16)
    tensors = {f"layers.{index}.weight": zeros.clone() for index in range(40)}
    copy = write_checkpoint(tmp_path / "a", tensors)
    plan = make_plan(parse_recipe(RECIPE), zoo | {"a": copy})
    with (copy.directory / "model.safetensors").open("r+b") as file:
        file.truncate(1_000_000)
    with pytest.raises(CheckpointError, match="changed since the merge began"):
        execute(plan, zoo | {"a": copy}, home=Home(tmp_path / "home"), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_sums_file_is_checkable_with_sha256sum(
    zoo: dict[str, SourceCheckpoint], tmp_path: Path
) -> None:
    run_recipe(RECIPE, zoo, tmp_path / "out")
    result = subprocess.run(
        ["sha256sum", "--check", "--strict", SUMS_NAME],
        cwd=tmp_path / "out",
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
