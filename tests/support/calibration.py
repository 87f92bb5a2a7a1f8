"""Small language models with a tokenizer, and jobs for the process that measures them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split

SAMPLES: list[tuple[str, str]] = [
    ("", "abcdefghij"),
    ("", "ocdab"),
    ("abab", "cde"),
    ("", "kkkkkkklmno"),
    ("hh", "ihgfedcba"),
]
"""Prompt and text, of different lengths: a batch of them has padding."""


def save_model(root: Path, make: Callable[[], Any]) -> Path:
    """A small model of some architecture, saved by transformers once, with a tokenizer."""
    directory = root / make.__name__
    if not directory.exists():
        torch.manual_seed(0)
        model = make()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))
        model.save_pretrained(directory)
        letters().save(str(directory / "tokenizer.json"))
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>"}
        (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory


def letters() -> Tokenizer:
    """A token for each letter from a to o."""
    known = ["<pad>", "<s>", "</s>", *"abcdefghijklmno"]
    vocabulary = {token: number for number, token in enumerate(known)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = Split(Regex("."), "isolated")
    return tokenizer


def job_of(directory: Path, statistic: str, out: Path, **changes: Any) -> dict[str, Any]:
    """What `tasks.calibration.process.measure` is given, for the samples of this module."""
    out.mkdir(exist_ok=True)
    return {
        "checkpoint": str(directory),
        "adapter": None,
        "statistic": statistic,
        "samples": [[line, *sample] for line, sample in enumerate(SAMPLES, 1)],
        "max_length": 32,
        "batch_size": 2,
        "device": "cpu",
        "out": str(out),
        **changes,
    }
