"""The text that models are trained on and judged by: the zoo's two domains, each in five dialects.

A dialect is a way to write the same text. The base knows the plain one alone, so an expert of
another dialect learns something that no other expert knows.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from benchmarks.science.sizes import Size
from flows.model_zoo.build import token_stream
from flows.model_zoo.suite import WINDOW, write_suite
from flows.model_zoo.text import read_domains
from flows.model_zoo.tokenizer import train_tokenizer
from merge_core.files.digests import digest_of

DOMAINS = ("code", "prose")


def _backwards(text: str) -> str:
    return "\n".join(" ".join(reversed(line.split(" "))) for line in text.split("\n"))


_FIGURES = str.maketrans("aeio", "4310")

DIALECTS: Mapping[str, Callable[[str], str]] = {
    "plain": lambda text: text,
    "capitals": str.upper,
    "backwards": _backwards,
    "underscores": lambda text: text.replace(" ", "_"),
    "figures": lambda text: text.translate(_FIGURES),
}

Pair = tuple[list[int], list[int]]
"""The tokens that a model sees, and those that follow."""


@dataclass(frozen=True)
class Skill:
    """What an expert is trained for."""

    domain: str
    dialect: str = "plain"

    def __str__(self) -> str:
        return self.domain if self.dialect == "plain" else f"{self.domain} in {self.dialect}"


SKILLS = tuple(
    Skill(domain, dialect)
    for dialects in (
        ("capitals", "backwards"),
        ("underscores", "figures"),
        ("backwards", "capitals"),
        ("figures", "underscores"),
    )
    for domain, dialect in zip(DOMAINS, dialects, strict=True)
)
"""Eight that the base has not, in the order in which experts are merged."""


@dataclass(frozen=True)
class Documents:
    """Held-out documents, ready for a model."""

    name: str
    pairs: tuple[Pair, ...]
    groups: tuple[str, ...]
    """The file of each."""
    sizes: tuple[int, ...]
    """Bytes of each text; of questions, 0."""
    answers: tuple[int, ...] = ()
    """Of questions, the number of the true choice; their choices are pairs in a row."""
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        facts = [self.pairs, self.sizes, self.answers]
        object.__setattr__(self, "digest", digest_of(json.loads(json.dumps(facts))))


class Texts:
    """Training text as tokens, and held-out documents in two halves."""

    def __init__(self, size: Size, suite: Path) -> None:
        zoo = size.zoo
        domains = read_domains(zoo.code_bytes, zoo.prose_bytes, zoo.held_out_documents, WINDOW)
        self._size = size
        self._training = {
            domain.name: [document.text for document in domain.training] for domain in domains
        }
        every = [text for name in sorted(self._training) for text in self._training[name]]
        self.tokenizer: PreTrainedTokenizerFast = train_tokenizer(
            every, vocabulary=zoo.shape.vocabulary, context=zoo.shape.context
        )
        if not suite.exists():
            write_suite(suite, domains, zoo.held_out_documents)
        self._suite = suite
        self._one_at_a_time = threading.Lock()  # a tokenizer is not for two threads
        self._streams: dict[Skill, torch.Tensor] = {}
        self._documents: dict[tuple[str, Skill, str], Documents] = {}

    def stream(self, skill: Skill) -> torch.Tensor:
        """All training text of a skill, as one row of tokens."""
        with self._one_at_a_time:
            if skill not in self._streams:
                write = DIALECTS[skill.dialect]
                texts = [write(text) for text in self._training[skill.domain]]
                self._streams[skill] = token_stream(self.tokenizer, texts)
            return self._streams[skill]

    def digest(self, skill: Skill) -> str:
        """Of the training text."""
        return hashlib.sha256(self.stream(skill).numpy().tobytes()).hexdigest()

    def texts(self, skill: Skill, half: str) -> Documents:
        """Held-out documents of a skill: `tuning` or `judging`."""
        return self._made("texts", skill, half, self._read_texts)

    def questions(self, domain: str, half: str) -> Documents:
        """Which of three continuations is the true one?"""
        return self._made("questions", Skill(domain), half, self._read_questions)

    def _made(
        self, kind: str, skill: Skill, half: str, read: Callable[[Skill, str], Documents]
    ) -> Documents:
        key = (kind, skill, half)
        with self._one_at_a_time:
            if key not in self._documents:
                self._documents[key] = read(skill, half)
            return self._documents[key]

    def _read_texts(self, skill: Skill, half: str) -> Documents:
        rows = self._half(f"zoo_{skill.domain}_bpb", half)
        texts = [DIALECTS[skill.dialect](row["text"]) for row in rows]
        begin = [self.tokenizer.bos_token_id]
        return Documents(
            f"{skill}",
            tuple((begin, self._tokens(text)) for text in texts),
            tuple(row["source"] for row in rows),
            tuple(len(text.encode()) for text in texts),
        )

    def _read_questions(self, skill: Skill, half: str) -> Documents:
        rows = self._half(f"zoo_{skill.domain}_next", half)
        pairs: list[Pair] = []
        for row in rows:
            prefix = self._tokens(row["prefix"])
            for choice in row["choices"]:
                pairs.append((prefix, self._tokens(row["prefix"] + choice)[len(prefix) :]))
        return Documents(
            f"questions of {skill}",
            tuple(pairs),
            tuple(row["source"] for row in rows),
            tuple(0 for _ in rows),
            tuple(row["answer"] for row in rows),
        )

    def _tokens(self, text: str) -> list[int]:
        found: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return found[: self._size.zoo.shape.context - 1]

    def _half(self, task: str, half: str) -> list[dict[str, Any]]:
        lines = (self._suite / "data" / f"{task}.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        # Files in turn, so that both halves are alike; two documents of a file stay together.
        files = list(dict.fromkeys(row["source"] for row in rows))
        wanted = {
            "tuning": files[::4][: self._size.tuning_files],
            "judging": [file for at, file in enumerate(files) if at % 4][
                : self._size.judging_files
            ],
        }[half]
        return [row for row in rows if row["source"] in set(wanted)]
