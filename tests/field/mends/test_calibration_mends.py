"""Mends of models and data that are measured: with transformers, on small models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from merge_core.checkpoints.sources import describe_source
from merge_core.errors import StepError
from merge_core.files.digests import DigestMemo
from merge_core.homes.home import Home
from merge_core.recipes.measurements import Measurement
from merge_core.recipes.parts import Calibration
from tasks.calibration.measure import calibrate
from tasks.calibration.process import measure
from tasks.processes.model import Problem
from tests.field.mends.situations import Situation, rewrite, situations
from tests.support import tiny_architectures as tiny
from tests.support.calibration import SAMPLES, job_of, save_model
from tests.support.followed_mends import Advice, Shell, Step

pytestmark = pytest.mark.slow


def measured(directory: Path, statistic: str = "loss", **changes: Any) -> str:
    """Measure a model in this process; what stops it is said as the parent says it."""
    out = directory.parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    try:
        measure(job_of(directory, statistic, out, **changes), lambda _: None)
    except Problem as problem:
        raise StepError(problem.message["what"], mend=problem.message["mend"]) from None
    return "measured"


def model(here: Path, make: Any = tiny.llama) -> Path:
    """A small model that transformers saved."""
    saved = save_model(here / "saved", make)
    copy = here / f"copy of {saved.name}"
    if not copy.exists():
        shutil.copytree(saved, copy)
    return copy


def put_back(directory: Path, *names: str) -> None:
    """Files of a model as transformers saved them."""
    saved = directory.parent / "saved" / directory.name.removeprefix("copy of ")
    for name in names:
        shutil.copy(saved / name, directory / name)


def no_tokenizer(here: Path) -> Iterator[Step]:
    directory = model(here)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).unlink()
    yield (measured, directory)
    put_back(directory, "tokenizer.json", "tokenizer_config.json")
    yield (measured, directory)


def a_text_that_is_too_short(here: Path) -> Iterator[Step]:
    yield (partial(measured, model(here), samples=[[1, "", "k"]]),)
    yield (partial(measured, model(here), samples=[[1, "", "kij"]]),)


def a_text_that_is_too_long(here: Path) -> Iterator[Step]:
    long = [[1, "", "kij" * 40]]
    yield (partial(measured, model(here), samples=long, max_length=99),)
    yield (partial(measured, model(here), samples=long, max_length=32),)


def an_encoder(here: Path) -> Iterator[Step]:
    directory = model(here, tiny.bert)
    yield (measured, directory)
    (here / "recipe.yaml").write_text(
        yaml.safe_dump({"merge_method": "passthrough", "models": [{"model": str(directory)}]})
    )
    yield ("merge", "recipe.yaml", "out of it")


def a_model_with_code_of_its_own(here: Path) -> Iterator[Step]:
    directory = model(here)
    file = directory / "config.json"
    content = json.loads(file.read_text()) | {"model_type": "of_its_own"}
    file.write_text(json.dumps(content))
    yield (measured, directory)
    put_back(directory, "config.json")
    yield (measured, directory)


def a_tokenizer_of_another_model(here: Path) -> Iterator[Step]:
    directory = model(here)

    def cut(tensors: dict[str, torch.Tensor]) -> None:
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensors[name] = tensors[name][:8].clone()

    rewrite(directory, cut)
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"vocab_size": 8}))
    yield (measured, directory)
    # Its own tokenizer knows no more than the first letters.
    known = [[line, "", "abcde"] for line, _ in enumerate(SAMPLES, 1)]
    yield (partial(measured, directory, samples=known),)


def a_tensor_that_is_no_parameter(here: Path) -> Iterator[Step]:
    directory = model(here)
    rewrite(directory, lambda tensors: tensors.update({"extra.weight": torch.ones(2, 2)}))
    yield (partial(measured, directory, "fisher"),)
    put_back(directory, "model.safetensors")
    yield (partial(measured, directory, "fisher"),)


def a_model_that_computes_nan(here: Path) -> Iterator[Step]:
    directory = model(here)
    rewrite(directory, lambda tensors: tensors["model.norm.weight"].fill_(torch.nan))
    yield (measured, directory)
    put_back(directory, "model.safetensors")
    yield (measured, directory)


def calibrated(here: Path, hours: float = 1.0, **changes: Any) -> str:
    """Measure a model in a process of its own."""
    (here / "data.jsonl").write_text("".join(f'{{"text": "{text}"}}\n' for _, text in SAMPLES))
    settings = {"data": "data.jsonl", "samples": 4, "max_length": 32} | changes
    directory = model(here)
    source = describe_source("m", directory, DigestMemo(None))
    wanted = Measurement("loss", Calibration(**settings))
    return str(calibrate(source, wanted, home=Home(here / "home"), beside=here, hours=hours))


def a_process_that_takes_too_long(here: Path) -> Iterator[Step]:
    yield (partial(calibrated, here, hours=1e-9),)
    yield (partial(calibrated, here, samples=2, max_length=8),)


@pytest.mark.parametrize("situation", situations(globals()), ids=lambda each: each.__name__)
def test_calibration(situation: Situation, here: Path, mergeflow: Shell, advice: Advice) -> None:
    advice.follow(mergeflow, situation(here))
