"""Where the files of a built model zoo are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Zoo:
    """Where everything of a built zoo is."""

    directory: Path

    @property
    def base(self) -> Path:
        """Pre-trained on both domains."""
        return self.directory / "base"

    @property
    def code_expert(self) -> Path:
        return self.directory / "code-expert"

    @property
    def prose_expert(self) -> Path:
        return self.directory / "prose-expert"

    @property
    def other_run(self) -> Path:
        """The wrong-base trap: same shape and tokenizer, pre-trained from another seed."""
        return self.directory / "other-run"

    @property
    def other_tokenizer(self) -> Path:
        """Same shape, but its tokens mean something else."""
        return self.directory / "other-tokenizer"

    @property
    def suite(self) -> Path:
        return self.directory / "suite"

    def run(self, domain: str) -> Path:
        """The fine-tuning run of "code" or "prose", with its `checkpoint-N` directories."""
        return self.directory / "runs" / domain

    def checkpoints(self, domain: str) -> tuple[Path, ...]:
        """The checkpoints of that run, first to last; the last is the expert."""
        found = self.run(domain).glob("checkpoint-*")
        return tuple(sorted(found, key=lambda path: int(path.name.rpartition("-")[2])))
