"""Inputs that are identified while they are merged give the result that they give otherwise, or
none: whatever changes, fails or is stopped in between."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from merge_core.digests import DigestMemo
from merge_core.errors import CheckpointError, MergeflowError
from merge_core.home import Home
from merge_core.manifest import SUMS_NAME
from merge_core.merge import merge
from merge_core.progress import Progress, ProgressEvent
from merge_core.recipe import Recipe, parse_recipe
from merge_core.records import CheckpointManifest, SourceCheckpoint
from merge_core.sources import describe_source
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
    parameters = {"weight": 0.5} | ({} if method in {"linear", PLAIN} else {"density": 0.5})
    models = [{"model": "a"}, {"model": "b"}]
    settings = {"merge_method": method, "models": models, "parameters": parameters}
    return parse_recipe(settings | {"base_model": "base"})


def identified(root: Path, progress: Progress | None = None) -> dict[str, SourceCheckpoint]:
    memo = DigestMemo(root / "home" / "digests.sqlite")
    return {name: describe_source(name, root / name, memo, progress=progress) for name in NAMES}


def run(
    root: Path,
    out: str,
    method: str = PLAIN,
    identify: Callable[[Progress], dict[str, SourceCheckpoint]] | None = None,
    progress: Progress | None = None,
) -> CheckpointManifest:
    sources = identified(root)
    if identify is not None:
        sources = {
            name: source.model_copy(update={"digest": "", "files": ()})
            for name, source in sources.items()
        }
    return merge(
        recipe(method),
        sources,
        home=Home(root / "home"),
        out=root / out,
        check=False,
        identify=identify,
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
        content = path.read_bytes() if path.exists() else b"{}"
        path.write_bytes(content)  # even if it is the same: nobody can know what was read

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
