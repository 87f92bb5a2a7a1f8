"""Mends of places and files: where a merge writes, and commands on what is there."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.field.mends.situations import (
    MERGE,
    VERIFY,
    Situation,
    again,
    on_base,
    recipe,
    replaced,
    rewrite,
    situations,
    tensors_of,
)
from tests.support.followed_mends import Advice, Later, Shell, Step
from tests.support.mends import ROOT

pytestmark = pytest.mark.slow  # `make field`


def a_place_that_is_taken(here: Path) -> Iterator[Step]:
    (here / "out").mkdir()
    yield MERGE
    (here / "out").rmdir()
    yield MERGE


def a_place_below_a_file(here: Path) -> Iterator[Step]:
    (here / "file").write_text("")
    yield ("merge", "recipe.yaml", "file/out")
    yield MERGE


def a_shipped_file_that_is_elsewhere(here: Path) -> Iterator[Step]:
    shipped = ROOT / "configs" / "recipes" / "zoo-ties.yaml"
    yield ("plan", "zoo-ties.yaml")
    yield Later("there is no such directory", ("plan", str(shipped)))


def a_file_that_is_misspelt(here: Path) -> Iterator[Step]:
    yield ("plan", "recip.yml")
    yield ("plan", "recipe.yaml")


def a_name_that_is_too_long(here: Path) -> Iterator[Step]:
    yield ("merge", "recipe.yaml", "o" * 300)
    yield MERGE


def a_place_that_cannot_be_made(here: Path) -> Iterator[Step]:
    yield ("merge", "recipe.yaml", "/proc/nowhere/out")
    yield MERGE


def files_that_may_not_become_large(here: Path) -> Iterator[Step]:
    large = {f"model.layers.{i}.mlp.up_proj.weight": torch.randn(64, 256) for i in range(4)}
    for name in "ab":
        replaced(here, name, {k: v * (1 + 0.01 * (name == "b")) for k, v in large.items()})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (130_000, limits[1]))
    try:
        yield MERGE
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    yield MERGE


def a_link_where_the_merge_would_work(here: Path) -> Iterator[Step]:
    place = here / ".out.mergeflow"
    place.symlink_to(here / "a")
    yield MERGE
    place.unlink()
    yield MERGE


def another_thing_where_the_merge_would_work(here: Path) -> Iterator[Step]:
    place = here / ".out.mergeflow"
    place.mkdir()
    (place / "thesis.tex").write_text("")
    yield MERGE
    place.rename(here / "moved")
    yield MERGE


def a_directory_that_mergeflow_did_not_make(here: Path) -> Iterator[Step]:
    yield ("check", "a")
    from flows.cli.program import run

    assert run(["merge", "recipe.yaml", "out"]) == 0
    yield ("check", "out")


def a_result_that_is_not_what_was_made(here: Path) -> Iterator[Step]:
    from flows.cli.program import run

    assert run(list(MERGE)) == 0
    (here / "out").chmod(0o755)
    (here / "out/config.json").chmod(0o644)
    (here / "out/config.json").write_text("{}")
    yield ("check", "out")
    shutil.rmtree(here / "out")
    assert run(list(MERGE)) == 0
    yield ("check", "out")


def no_task_vector(here: Path) -> Iterator[Step]:
    yield ("task-vector", "apply", "base", "a", "out")
    from flows.cli.program import run

    assert run(["task-vector", "extract", "base", "a", "vector"]) == 0
    yield ("task-vector", "apply", "base", "vector", "out")


def a_task_vector_of_another_base(here: Path) -> Iterator[Step]:
    from flows.cli.program import run

    assert run(["task-vector", "extract", "base", "a", "vector"]) == 0
    yield ("task-vector", "apply", "b", "vector", "out")
    yield ("task-vector", "apply", "base", "vector", "out")


def a_profile_without_a_base(here: Path) -> Iterator[Step]:
    yield ("profile", "recipe.yaml")
    on_base(here)
    yield ("profile", "recipe.yaml")


def a_profile_of_nothing_in_common(here: Path) -> Iterator[Step]:
    replaced(here, "base", {"other.weight": torch.randn(8, 8)})
    on_base(here)
    yield ("profile", "recipe.yaml")
    yield Later("it lacks", VERIFY)


def a_profile_of_what_is_no_number(here: Path) -> Iterator[Step]:
    broken(here)
    on_base(here)
    yield ("profile", "recipe.yaml")
    yield Later("no numbers", VERIFY)


def a_merge_of_what_is_no_number(here: Path) -> Iterator[Step]:
    broken(here)
    yield MERGE
    again(here, "a")
    yield MERGE


def broken(here: Path) -> None:
    """Let the training of a have diverged."""
    name = "model.layers.0.mlp.up_proj.weight"
    rewrite(here / "a", lambda tensors: tensors[name].view(-1)[3:4].fill_(float("nan")))


def a_tensor_that_is_not_there(here: Path) -> Iterator[Step]:
    yield ("explain", "recipe.yaml", "up_proj")
    yield ("explain", "recipe.yaml", "*up_proj*")


def a_device_that_is_not_there(here: Path) -> Iterator[Step]:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    yield (*MERGE, "--device", "cuda")
    yield (*MERGE, "--device", "auto")


def a_merge_without_its_measurements(here: Path) -> Iterator[Step]:
    from merge_core.checkpoints.sources import describe_source
    from merge_core.files.digests import DigestMemo
    from merge_core.homes.home import Home
    from merge_core.operations.merge import merge
    from merge_core.recipes.loading import parse_recipe

    (here / "x.jsonl").write_text('{"text": "one"}\n' * 4)
    models = [{"model": name} for name in "ab"]
    content = {"merge_method": "fisher", "models": models, "calibration": {"data": "x.jsonl"}}
    sources = {name: describe_source(name, here / name, DigestMemo(None)) for name in "ab"}
    yield (partial(merge, parse_recipe(content), sources, home=Home(here / "h"), out=here / "out"),)
    recipe(here, **content)
    yield Later("64 samples are wanted", MERGE)


def a_checkpoint_that_is_not_there_as_one(here: Path) -> Iterator[Step]:
    (here / "a/config.json").write_text("{")
    yield VERIFY
    again(here, "a")
    yield VERIFY


def files_that_are_left_over(here: Path) -> Iterator[Step]:
    again(here, "a", 2)
    shutil.copy(here / "b/model.safetensors", here / "a/model-of-yesterday.safetensors")
    yield VERIFY
    yield (merged_as_it_is,)


def a_relative_that_is_far(here: Path) -> Iterator[Step]:
    base, change = tensors_of(0), tensors_of(5, 0.8)
    replaced(here, "a", {name: base[name] + change[name] for name in base})
    on_base(here)
    yield VERIFY
    content = (here / "recipe.yaml").read_text()
    (here / "recipe.yaml").write_text(content.replace("weight: 0.5", "weight: 0.05"))
    yield (merged_as_it_is,)


def merged_as_it_is() -> str:
    """Merge: the warning stays, since the weights are what they are, and a person has decided."""
    from flows.cli.program import run

    assert run(["merge", "recipe.yaml", "out"]) == 0
    return "merged"


def packed_8_bit_weights(here: Path) -> Iterator[Step]:
    header = {"w": {"dtype": "F8_E8M0", "shape": [4], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    weights = here / "a/model.safetensors"
    weights.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    yield VERIFY
    again(here, "a")
    yield VERIFY


def a_pattern_that_is_none(here: Path) -> Iterator[Step]:
    from merge_core.operations.trajectory.find import checkpoints_in

    yield (checkpoints_in, here, "step{step}-{step}")
    yield (checkpoints_in, here, "step{step}-*")


def a_file_that_went_away(here: Path) -> Iterator[Step]:
    from merge_core.files.bounded_json import read_json

    kept = (here / "a/config.json").rename(here / "kept")
    yield (read_json, here / "a/config.json")
    kept.rename(here / "a/config.json")
    yield (read_json, here / "a/config.json")


def a_beta_of_one(here: Path) -> Iterator[Step]:
    from merge_core.operations.trajectory.schedules import ema_weights

    yield (ema_weights, 3, 1.0)
    yield (ema_weights, 3, 0.9)


def a_thing_that_is_not_in_the_quarantine(here: Path) -> Iterator[Step]:
    from merge_core.homes.home import Home
    from merge_core.store.quarantine import find_quarantined, set_aside

    home = Home(here / "home")
    (home.path / "store/objects/x").mkdir(parents=True)
    assert set_aside(home, "objects", "x", size=0, keep_for=60)
    yield (find_quarantined, home, "y")
    yield (find_quarantined, home, "x")


@pytest.mark.parametrize("situation", situations(globals()), ids=lambda each: each.__name__)
def test_file(situation: Situation, here: Path, mergeflow: Shell, advice: Advice) -> None:
    recipe(here)
    advice.follow(mergeflow, situation(here))
