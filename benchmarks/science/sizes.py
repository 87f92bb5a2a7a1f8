"""How much is trained and evaluated: the run of the page, and a quick one for tests."""

from __future__ import annotations

from dataclasses import dataclass, replace

from flows.model_zoo.settings import DEMO, TINY, Run, Settings

FIRST_SEED = 7
"""The zoo's own seed; others count up from it."""


@dataclass(frozen=True)
class Size:
    """Everything that decides the numbers of a page, apart from the seeds."""

    zoo: Settings
    tuning_files: int
    """Held-out files of each domain by which scales and ingredients are chosen; two documents of
    each."""
    judging_files: int
    """Other held-out files, by which everything is judged."""
    experts: tuple[int, ...]
    """How many experts are merged at once."""
    soup_rates: tuple[float, ...]
    soup_steps: tuple[int, ...]
    scales: tuple[float, ...]
    checkpoints: Run
    """Of a run with many checkpoints at a constant rate."""

    @property
    def parameters(self) -> int:
        """Of a model: tied embeddings, attention, MLP, norms."""
        shape = self.zoo.shape
        head = shape.hidden // shape.heads
        attention = 2 * shape.hidden * head * (shape.heads + shape.kv_heads)
        layer = attention + 3 * shape.hidden * shape.intermediate + 2 * shape.hidden
        return shape.vocabulary * shape.hidden + shape.layers * layer + shape.hidden


FULL = Size(
    zoo=DEMO,
    tuning_files=12,
    judging_files=45,
    experts=(2, 4, 6, 8),
    soup_rates=(0.5, 1.0, 2.0),
    soup_steps=(48, 96),
    scales=(0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5),
    checkpoints=replace(DEMO.expert, steps=96, checkpoints=12, final=1.0),
)

QUICK = Size(
    zoo=TINY,
    tuning_files=4,
    judging_files=6,
    experts=(2, 4),
    soup_rates=(0.5, 1.0),
    soup_steps=(6, 12),
    scales=(0.5, 1.0, 2.5),
    checkpoints=replace(TINY.expert, steps=12, checkpoints=4, final=1.0),
)
