"""The samples of a calibration: read from a JSONL file, checked line by line, drawn by a seed."""

from __future__ import annotations

import json
import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge_core.errors import RecipeError
from merge_core.files.digests import sha256_file
from merge_core.files.named_file import open_named
from merge_core.homes.variables import place_of
from merge_core.recipes.parts import Calibration

_WHERE = "calibration.data"
_MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class Sample:
    """One text. Only the tokens of `text` count, after those of the prompt."""

    line: int
    """Its number in the file, from 1."""
    prompt: str
    text: str


def data_file(calibration: Calibration, beside: Path | None) -> Path:
    """The file that a calibration names.

    Args:
        beside: directory that a relative path starts from; by default the current one.

    Raises:
        RecipeError: there is no such file.
        CheckpointError: a variable in its path is not known.
    """
    path = (beside or Path.cwd()) / place_of(calibration.data)
    if not path.is_file():
        raise RecipeError(
            f"there is no file {path}",
            where=_WHERE,
            mend="a path starts from the recipe's directory; write a JSONL file, with a line"
            ' {"text": ...} for each sample',
        )
    return path


def data_digest(path: Path) -> str:
    """sha256 of the file."""
    return sha256_file(path)


def draw_samples(calibration: Calibration, path: Path) -> list[Sample]:
    """The calibration's samples, in the order of the draw: the same for every model.

    Raises:
        RecipeError: the file cannot be read, a line is no sample, or there are too few.
    """
    lines = _lines(path)
    if len(lines) < calibration.samples:
        raise RecipeError(
            f"{path} has {len(lines)} lines, and {calibration.samples} samples are wanted",
            where="calibration.samples",
            mend=f"set samples: {len(lines)}, or add lines" if lines else "add lines to the file",
        )
    drawn = random.Random(calibration.seed).sample(lines, calibration.samples)
    return [_sample(line, number, calibration.field, path) for number, line in drawn]


def _lines(path: Path) -> list[tuple[int, str]]:
    """Every line that is not blank, with its number."""
    try:
        with open_named(path) as file:
            if os.fstat(file.fileno()).st_size > _MAX_BYTES:
                raise RecipeError(
                    f"{path} is larger than 1 GiB",
                    where=_WHERE,
                    mend="a few hundred lines are enough",
                )
            text = file.read().decode("utf-8")
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror}", where=_WHERE) from None
    except UnicodeDecodeError:
        raise RecipeError(f"{path} is not UTF-8 text", where=_WHERE) from None
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _sample(line: str, number: int, field: str, path: Path) -> Sample:
    where = f"{path}, line {number}"
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise RecipeError(
            "this is not a JSON object", where=where, mend='each line is one: {"text": ...}'
        )
    if isinstance(value.get(field), str):
        sample = Sample(number, "", value[field])
    elif isinstance(value.get("prompt"), str) and isinstance(value.get("completion"), str):
        sample = Sample(number, value["prompt"], value["completion"])
    else:
        keys = ", ".join(sorted(map(str, value))) or "none"
        raise RecipeError(
            f"there is no text under '{field}', nor prompt and completion (the keys are: {keys})",
            where=where,
            mend="name the key of the text as calibration.field",
        )
    if not sample.text.strip():
        raise RecipeError("the text is empty", where=where, mend="remove the line, or fill it")
    return sample
