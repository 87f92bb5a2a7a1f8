"""Mends of classes and names that a checkpoint's own files give, and that training changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.cli.program import run
from tests.field.mends.situations import (
    MERGE,
    VERIFY,
    Situation,
    Tensors,
    again,
    config,
    on_base,
    recipe,
    rewrite,
    situations,
)
from tests.support.followed_mends import Advice, Shell, Step

pytestmark = pytest.mark.slow  # `make field`

CAUSAL = "LlamaForCausalLM"


def a_wrapper_of_a_known_class(here: Path) -> Iterator[Step]:
    config(here / "a", architectures=[f"FSDP{CAUSAL}"])
    yield VERIFY
    config(here / "a", architectures=[CAUSAL])
    yield VERIFY


def a_wrapper_of_anything(here: Path) -> Iterator[Step]:
    config(here / "a", architectures=["OptimizedModule"])
    yield VERIFY
    config(here / "a", architectures=[CAUSAL])
    yield VERIFY


def no_class(here: Path) -> Iterator[Step]:
    config(here / "a")
    yield VERIFY
    config(here / "a", architectures=[CAUSAL])
    yield VERIFY


def another_class_of_the_same_tensors(here: Path) -> Iterator[Step]:
    config(here / "a", architectures=["LlamaForTokenClassification"])
    yield VERIFY
    config(here / "a", architectures=[CAUSAL])
    yield VERIFY


def names_of_a_wrapper(here: Path) -> Iterator[Step]:
    def wrapped(tensors: Tensors) -> None:
        for name in list(tensors):
            tensors[f"_orig_mod.{name}"] = tensors.pop(name)

    rewrite(here / "a", wrapped)
    yield VERIFY
    recipe(here, merge_method="passthrough", models=[{"model": "./a"}])
    assert run(list(MERGE)) == 0
    recipe(here, models=[{"model": "./out"}, {"model": "./b"}])
    yield VERIFY


def an_index_that_lists_what_is_nowhere(here: Path) -> Iterator[Step]:
    index = again_with(here, "ghost.weight")
    yield VERIFY
    removed(index)
    yield VERIFY


def an_index_that_lists_several_that_are_nowhere(here: Path) -> Iterator[Step]:
    index = again_with(here, "ghost.weight", "phantom.weight")
    yield VERIFY
    removed(index)
    yield VERIFY


def again_with(here: Path, *names: str) -> Path:
    """The index of a, in two shards, with tensors more that no shard holds."""
    again(here, "a", 2)
    config(here / "a", architectures=[CAUSAL])
    index = here / "a/model.safetensors.index.json"
    content = json.loads(index.read_text())
    first = next(iter(content["weight_map"].values()))
    content["weight_map"] |= dict.fromkeys(names, first)
    index.write_text(json.dumps(content))
    return index


def removed(index: Path) -> None:
    """Take out of an index what no shard holds."""
    content = json.loads(index.read_text())
    for name in ("ghost.weight", "phantom.weight"):
        content["weight_map"].pop(name, None)
    index.write_text(json.dumps(content))


@pytest.mark.parametrize("situation", situations(globals()), ids=lambda each: each.__name__)
def test_class(situation: Situation, here: Path, mergeflow: Shell, advice: Advice) -> None:
    for name in ("base", "a", "b"):
        config(here / name, architectures=[CAUSAL])
    recipe(here)
    advice.follow(mergeflow, situation(here))


def test_another_class_whose_head_is_excluded_needs_nothing(
    here: Path, mergeflow: Shell, advice: Advice
) -> None:
    config(here / "a", architectures=["LlamaForTokenClassification"])
    for name in ("base", "b"):
        config(here / name, architectures=[CAUSAL])
    on_base(here, exclude=["head"])
    advice.warned(mergeflow, *VERIFY)
    advice.check_said()
    mergeflow(*MERGE)
    made = json.loads((here / "out/config.json").read_text())
    assert made["architectures"] == [CAUSAL]
