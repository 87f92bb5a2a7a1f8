"""Inputs that are identified while they are merged give the result that they give otherwise, or
none: whatever changes, fails or is stopped in between."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from merge_core.checkpoints.sources import describe_source
from merge_core.errors import CheckpointError, MergeflowError
from merge_core.files.digests import DigestMemo
from merge_core.homes.home import Home
from merge_core.operations import execute
from merge_core.operations.deferred_digests import DeferredDigests
from merge_core.operations.merge import merge
from merge_core.output.manifest import SUMS_NAME
from merge_core.planning.layout import DEFAULT_SHARD_BYTES
from merge_core.progress import Progress, ProgressEvent
from merge_core.recipes.loading import parse_recipe
from merge_core.recipes.recipe import Recipe
from merge_core.records import CheckpointManifest, SourceCheckpoint
from tests.support.checkpoints import write_checkpoint

NAMES = ("base", "a", "b")
PLAIN = "task_arithmetic"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed, name in enumerate(NAMES):
        generator = torch.Generator().manual_seed(seed)
        tensors = {
            f"layers.{index}.weight": torch.randn(5000, generator=generator).bfloat16()
            for index in range(20)
        }
        write_checkpoint(tmp_path / name, tensors)
    return tmp_path


def recipe(method: str) -> Recipe:
    weights = {"a": 0.75, "b": 0.25}
    models = [{"model": name, "parameters": {"weight": w}} for name, w in weights.items()]
    parameters = {} if method in {"linear", PLAIN} else {"density": 0.5}
    settings = {"merge_method": method, "models": models, "parameters": parameters}
    return parse_recipe(settings | {"base_model": "base"})


def identified(
    root: Path, progress: Progress | None = None, places: Mapping[str, str] | None = None
) -> dict[str, SourceCheckpoint]:
    memo = DigestMemo(root / "home" / "digests.sqlite")
    return {
        name: describe_source(name, root / (places or {}).get(name, name), memo, progress=progress)
        for name in NAMES
    }


def run(
    root: Path,
    out: str,
    method: str = PLAIN,
    identify: Callable[[Progress], Mapping[str, SourceCheckpoint]] | None = None,
    progress: Progress | None = None,
    places: Mapping[str, str] | None = None,
) -> CheckpointManifest:
    """A merge; with `identify` of inputs that are not identified yet.

    Args:
        places: where references lead that are not names of directories.
    """
    if identify is None:
        sources = identified(root)
    else:
        sources = {
            name: SourceCheckpoint(
                reference=name, path=str(root / (places or {}).get(name, name)), digest="", files=()
            )
            for name in NAMES
        }
    seen = DeferredDigests.of(sources, identify, DEFAULT_SHARD_BYTES) if identify else None
    return merge(
        recipe(method),
        sources,
        home=Home(root / "home"),
        out=root / out,
        check=False,
        deferred=seen,
        progress=progress,
    )


@pytest.mark.parametrize("method", [PLAIN, "ties", "dare_linear", "linear"])
def test_the_result_and_its_records_are_the_same(method: str, root: Path) -> None:
    before = run(root, "before", method)
    meanwhile = run(root, "meanwhile", method, lambda progress: identified(root, progress))
    assert meanwhile.object_id == before.object_id
    assert meanwhile.plan_digest == before.plan_digest
    assert (root / "meanwhile" / SUMS_NAME).read_bytes() == (
        root / "before" / SUMS_NAME
    ).read_bytes()


def test_weights_are_merged_before_all_inputs_are_identified(root: Path) -> None:
    merging = threading.Event()

    def identify(progress: Progress) -> dict[str, SourceCheckpoint]:
        assert merging.wait(60)
        return identified(root, progress)

    def listen(event: ProgressEvent) -> None:
        if event.stage == "merge" and event.done == event.total:
            merging.set()

    assert run(root, "out", identify=identify, progress=listen).inputs[0].digest
    assert merging.is_set()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "chat_template.jinja"])
@pytest.mark.parametrize("when", ["before hashing", "after hashing"])
def test_a_file_that_changes_or_comes_meanwhile_is_told(name: str, when: str, root: Path) -> None:
    path = root / "b" / name

    def write() -> None:
        """Even if the content is the same: nobody can know what was read."""
        if not path.exists():
            path.write_bytes(b"{}")
        with path.open("r+b") as file:
            first = file.read(1)
            file.seek(0)
            file.write(first)

    def identify(progress: Progress) -> dict[str, SourceCheckpoint]:
        if when == "before hashing":
            write()
        found = identified(root, progress)
        if when == "after hashing":
            write()
        return found

    with pytest.raises(CheckpointError, match="an input changed while it was merged"):
        run(root, "out", identify=identify)
    assert {each.name for each in root.iterdir()} == {*NAMES, "home"}
    again = run(root, "out", identify=lambda progress: identified(root, progress))
    assert again.plan_digest == run(root, "other").plan_digest


def test_an_input_that_is_not_what_it_should_be_ends_the_merge_at_once(root: Path) -> None:
    wrong = CheckpointError("the files are not the registered ones", where="b")
    finished = []

    def identify(progress: Progress) -> dict[str, SourceCheckpoint]:
        raise wrong

    def listen(event: ProgressEvent) -> None:
        if event.stage == "merge":
            finished.append(event.done / event.total)

    with pytest.raises(MergeflowError, match="not the registered ones"):
        run(root, "out", identify=identify, progress=listen)
    assert max(finished, default=0) < 1
    assert {each.name for each in root.iterdir()} == {*NAMES, "home"}


def test_an_interrupt_ends_identifying_too(root: Path) -> None:
    ended = threading.Event()

    def identify(progress: Progress) -> dict[str, SourceCheckpoint]:
        try:
            while True:
                progress(ProgressEvent("hash", 0, 1))
        finally:
            ended.set()

    def listen(event: ProgressEvent) -> None:
        if event.stage == "merge":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(root, "out", identify=identify, progress=listen)
    assert ended.is_set()
    working = json.loads((root / ".out.mergeflow" / "journal").read_text().split("\n")[0])
    assert working["plan"]
    again = run(root, "out", identify=lambda progress: identified(root, progress))
    assert again.object_id == run(root, "other").object_id


def test_a_killed_merge_is_not_resumed_with_references_that_lead_elsewhere(root: Path) -> None:
    """As an alias of a registry does, or a branch."""

    def interrupted(event: ProgressEvent) -> None:
        if event.stage == "merge" and event.done:
            raise KeyboardInterrupt

    def merged(out: str, places: dict[str, str], progress: Progress | None = None) -> str:
        identify = partial(identified, root, places=places)
        return run(root, out, PLAIN, identify, progress, places).object_id

    straight, swapped = {"a": "a", "b": "b"}, {"a": "b", "b": "a"}
    expected = merged("expected", swapped)
    with pytest.raises(KeyboardInterrupt):
        merged("out", straight, interrupted)
    assert merged("out", swapped) == expected


def test_a_config_that_changes_while_it_is_copied_is_told(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = root / "base" / "config.json"
    writing = execute.write_model_files

    def write(*arguments: Any) -> Any:
        config.write_text(json.dumps({"model_type": "llama", "new": True}))
        return writing(*arguments)

    monkeypatch.setattr(execute, "write_model_files", write)
    for out, identify in (("one", None), ("two", partial(identified, root))):
        with pytest.raises(CheckpointError, match="changed"):
            run(root, out, identify=identify)
        assert not (root / out).exists()
        config.write_text(json.dumps({"model_type": "llama"}))


def test_a_directory_whose_name_is_not_utf_8(root: Path) -> None:
    strange = os.fsdecode(b"\xff\xfe")
    (root / "b").rename(root / strange)
    places = {"b": strange}
    merged = run(root, "out", identify=partial(identified, root, places=places), places=places)
    (root / strange).rename(root / "b")
    assert merged.object_id == run(root, "other").object_id


def test_an_input_that_cannot_be_looked_at_is_told(root: Path) -> None:
    (root / "b" / "model.safetensors").unlink()
    (root / "b" / "model.safetensors").symlink_to("nowhere")
    with pytest.raises(MergeflowError) as caught:
        run(root, "out", identify=partial(identified, root))
    assert caught.value.mend
