"""Where the candidates of a search are merged: in memory while it has room, else on the disk."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from merge_core.homes.home import Home
from merge_core.recipes.loading import parse_recipe
from tasks import candidate
from tasks.candidate import Workshop
from tasks.evaluation.suite import load_suite
from tests.support.checkpoints import write_checkpoint

RECIPE = parse_recipe(
    {
        "merge_method": "linear",
        "models": [{"model": name, "parameters": {"weight": 0.5}} for name in ("a", "b")],
    }
)
UNSHARE = ("unshare", "--user", "--map-root-user", "--mount")
INSIDE = """
import logging, sys
from pathlib import Path
from tests.tasks.test_candidate import merged_twice, workshop
logging.basicConfig(level="INFO")
places = merged_twice(workshop(Path(sys.argv[1])))
print(*places)
"""


def workshop(directory: Path) -> Workshop:
    sources = {}
    for index, name in enumerate(("a", "b")):
        weights = {"weight": torch.full((64, 64), float(index))}
        sources[name] = write_checkpoint(directory / name, weights)
    nobody: Any = None
    return Workshop(
        home=Home(directory / "home"),
        sources=sources,
        suite=load_suite("starter"),
        device="cpu",
        threads=1,
        evaluators=nobody,
        batch_size=None,
        shard_bytes=1 << 30,
        study="s",
    )


def merged_twice(made: Workshop) -> list[Path]:
    """Where two candidates are, one after the other; nothing of them stays."""
    places = []
    for _ in range(2):
        with made._merged(RECIPE, {}) as manifest:
            place = Path(manifest.path)
            assert (place / "model.safetensors").exists()
            places.append(place.parents[1])
        assert not place.parent.exists()
    return places


def test_a_candidate_is_merged_into_memory_while_it_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made, memory = workshop(tmp_path), tmp_path / "memory"
    memory.mkdir()
    monkeypatch.setattr(candidate, "_MEMORY", memory)
    with caplog.at_level(logging.INFO):
        assert merged_twice(made) == [memory, memory]
    assert "on the disk" not in caplog.text
    assert list(memory.iterdir()) == []


def test_without_room_in_memory_the_disk_takes_it_with_one_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = workshop(tmp_path)
    monkeypatch.setattr(candidate, "_ROOM", 1e12)
    with caplog.at_level(logging.INFO):
        assert merged_twice(made) == [made.home.scratch] * 2
    assert caplog.text.count("candidates are merged on the disk: /dev/shm has no room") == 1


def test_memory_that_cannot_be_written_to_is_answered_by_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made, memory = workshop(tmp_path), tmp_path / "memory"
    memory.write_text("a file where a directory is looked for")
    monkeypatch.setattr(candidate, "_MEMORY", memory)
    with caplog.at_level(logging.INFO):
        assert merged_twice(made) == [made.home.scratch] * 2
    assert caplog.text.count("does not take one") == 1


def test_what_a_killed_search_left_is_removed_by_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = tmp_path / "memory"
    memory.mkdir()
    monkeypatch.setattr(candidate, "_MEMORY", memory)
    made = workshop(tmp_path)
    other = replace(made, study="another")
    with made._merged(RECIPE, {}) as manifest:
        needed = Path(manifest.path).parent
        left = memory / needed.name.replace("candidate-", "candidate-0")
        shutil.copytree(needed, left)
        foreign = memory / "mergeflow-of-something-else"
        foreign.mkdir()
        for directory in memory.iterdir():
            os.utime(directory, (0, 0))
        new = memory / f"{left.name}-new"  # its process has not locked it yet
        new.mkdir()
        other.clear()
        assert {each.name for each in memory.iterdir()} == {needed.name, foreign.name, new.name}
    killed = made._merged(RECIPE, {})
    killed.__enter__()
    made.clear()
    assert {each.name for each in memory.iterdir()} == {foreign.name, new.name}


@pytest.mark.slow
def test_a_small_memory_that_a_merge_refuses_is_answered_by_the_disk(tmp_path: Path) -> None:
    """There is room for the candidate, and not for what a merge wants to spare."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare")
    mount = "mount -t tmpfs -o size=16m none /dev/shm"
    if subprocess.run([*UNSHARE, "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("this system lets its users mount no file system of their own")
    script = f'{mount} && exec "$0" -c "$1" "$2"'
    done = subprocess.run(
        [*UNSHARE, "sh", "-c", script, sys.executable, INSIDE, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "home" / "scratch")] * 2
    assert done.stderr.count("/dev/shm does not take one") == 1
