"""A merge that was killed under earlier code goes on under today's, to the same bytes."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.support.former_code import COMMAND, former_code, mergeflow
from tests.support.tiny_llama import fine_tuned, write_llama

COMMITS = {"before rooms": "646b31ea8788", "before history": "221bab79f591"}
"""Both hashed inputs that they did not know beside the merge."""

_TENSORS, _ROWS, _WIDTH = 24, 1024, 2048
_RECIPE = """
merge_method: ties
base_model: base
models: [{model: a}, {model: b}]
parameters: {weight: 0.5, density: 0.3, scope: global}
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    shape = (_ROWS, _WIDTH)
    base = {
        f"model.layers.{index}.mlp.up_proj.weight": torch.randn(shape, generator=generator)
        .div(20)
        .bfloat16()
        for index in range(_TENSORS)
    }
    write_llama(tmp_path / "base", base)
    for seed, name in enumerate(("a", "b")):
        write_llama(tmp_path / name, fine_tuned(base, seed))
    (tmp_path / "recipe.yaml").write_text(_RECIPE)
    return tmp_path


pytestmark = pytest.mark.slow  # `make sessions`


@pytest.mark.parametrize("commit", COMMITS.values(), ids=list(COMMITS))
def test_it_takes_over_what_was_merged(commit: str, models: Path, tmp_path: Path) -> None:
    home, code = tmp_path / "home", former_code(commit, tmp_path / "code")
    known = mergeflow("merge", "recipe.yaml", "known", home=home, cwd=models, code=code)
    assert known.returncode == 0, known.stderr
    staging = _killed_in_the_middle(models, code, home)
    before = {path.name: path.stat().st_ino for path in staging.rglob("*.safetensors")}
    assert before
    resumed = mergeflow("merge", "recipe.yaml", "out", home=home, cwd=models)
    assert resumed.returncode == 0, resumed.stderr
    after = {path.name: path.stat().st_ino for path in (models / "out").glob("*.safetensors")}
    assert after == before, "the files of the killed merge are gone on with"
    assert not staging.exists()
    whole = mergeflow("merge", "recipe.yaml", "whole", home=home, cwd=models)
    assert whole.returncode == 0, whole.stderr
    assert _sums(models / "out") == _sums(models / "whole") == _sums(models / "known")


@pytest.mark.parametrize("commit", COMMITS.values(), ids=list(COMMITS))
def test_it_begins_anew_where_the_inputs_had_no_digests_yet(
    commit: str, models: Path, tmp_path: Path
) -> None:
    home, code = tmp_path / "home", former_code(commit, tmp_path / "code")
    staging = _killed_in_the_middle(models, code, home)
    anew = mergeflow("merge", "recipe.yaml", "out", home=home, cwd=models)
    assert anew.returncode == 0, anew.stderr
    assert not staging.exists()
    whole = mergeflow("merge", "recipe.yaml", "whole", home=home, cwd=models)
    assert whole.returncode == 0, whole.stderr
    assert _sums(models / "out") == _sums(models / "whole")


def _killed_in_the_middle(models: Path, code: Path, home: Path) -> Path:
    """Where a merge by the former code lies that was killed after its first tensors."""
    command = [sys.executable, "-c", COMMAND, str(code)]
    merge = subprocess.Popen(
        [*command, "merge", "recipe.yaml", "out", "--threads", "1"],
        cwd=models,
        env={**os.environ, "MERGEFLOW_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while merge.poll() is None:
        for journal in models.glob(".*/journal*"):
            if journal.stat().st_size > 0 and journal.read_bytes().count(b"\n") > 1:
                merge.send_signal(signal.SIGKILL)
                merge.wait()
                return journal.parent
        time.sleep(0.002)
    pytest.fail("the merge was over before it could be killed")


def _sums(directory: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.glob("*.safetensors")
    }
