"""How big the zoo is: one frozen value per scale, and its digest is what a built zoo is kept by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ScaleName = Literal["demo", "tiny"]


@dataclass(frozen=True)
class Shape:
    """The Llama of the zoo. Grouped-query attention and tied embeddings, as in Llama-3.2-1B."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    context: int = 256


@dataclass(frozen=True)
class Run:
    """One training run: `steps` optimizer steps of `batch` windows of `window` tokens."""

    steps: int
    matrix_rate: float
    """Highest learning rate of the weight matrices (Muon)."""
    vector_rate: float
    """Highest learning rate of embeddings and norms (AdamW)."""
    final: float
    """Share of those rates left at the end. A base that is stopped early leaves its fine-tunes
    something to learn in common, which is what merging them adds up."""
    batch: int = 8
    window: int = 128
    checkpoints: int = 0
    """How many checkpoints to keep on the way, evenly spaced, the last at the end."""

    @property
    def tokens(self) -> int:
        return self.steps * self.batch * self.window


@dataclass(frozen=True)
class Settings:
    """Everything that decides the files of a build, apart from the interpreter's own text."""

    name: ScaleName
    shape: Shape
    base: Run
    expert: Run
    other_run: Run
    other_tokenizer: Run
    code_bytes: int
    prose_bytes: int
    """Training text of each domain, in characters."""
    held_out_documents: int
    """Documents of each domain and kind of task in the suite."""
    seed: int = 7
    version: int = 3
    """Raised when the code changes the files of a build."""


DEMO = Settings(
    name="demo",
    shape=Shape(vocabulary=2048, hidden=128, intermediate=384, layers=4, heads=4, kv_heads=2),
    base=Run(steps=300, matrix_rate=0.03, vector_rate=0.02, final=0.3),
    expert=Run(steps=72, matrix_rate=0.008, vector_rate=0.004, final=0.05, checkpoints=4),
    other_run=Run(steps=60, matrix_rate=0.03, vector_rate=0.02, final=0.3),
    other_tokenizer=Run(steps=10, matrix_rate=0.03, vector_rate=0.02, final=0.3),
    code_bytes=1_200_000,
    prose_bytes=600_000,
    held_out_documents=300,
)

TINY = Settings(
    name="tiny",
    shape=Shape(vocabulary=512, hidden=48, intermediate=128, layers=2, heads=4, kv_heads=2),
    base=Run(steps=40, matrix_rate=0.03, vector_rate=0.02, final=0.3, batch=4, window=64),
    expert=Run(
        steps=12,
        matrix_rate=0.008,
        vector_rate=0.004,
        final=0.05,
        batch=4,
        window=64,
        checkpoints=2,
    ),
    other_run=Run(steps=20, matrix_rate=0.03, vector_rate=0.02, final=0.3, batch=4, window=64),
    other_tokenizer=Run(steps=4, matrix_rate=0.03, vector_rate=0.02, final=0.3, batch=4, window=64),
    code_bytes=100_000,
    prose_bytes=100_000,
    held_out_documents=24,
)

SCALES: dict[ScaleName, Settings] = {"demo": DEMO, "tiny": TINY}
