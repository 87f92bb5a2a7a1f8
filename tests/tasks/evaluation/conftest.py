"""A tiny, random Llama with a trained tokenizer, and a suite for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from merge_core.records import SourceCheckpoint
from tasks.evaluation.suite import Suite
from tests.support.small_llama import trained_tokenizer, write_small_llama
from tests.support.small_suite import write_suite


@pytest.fixture(scope="module")
def tokenizer():
    return trained_tokenizer()


@pytest.fixture(scope="module")
def make_checkpoint(tmp_path_factory, tokenizer) -> Callable[..., SourceCheckpoint]:
    """A two-layer Llama with random weights of a given seed, changed by `edit` before saving."""

    def make(seed: int, edit=lambda model: None) -> SourceCheckpoint:
        directory = tmp_path_factory.mktemp(f"model-{seed}")
        return write_small_llama(directory, tokenizer, seed, edit)

    return make


@pytest.fixture(scope="module")
def base(make_checkpoint) -> SourceCheckpoint:
    return make_checkpoint(0)


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> Suite:
    return write_suite(tmp_path_factory.mktemp("suite") / "small")
