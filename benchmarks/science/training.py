"""The models of one seed, each trained once and found again by what it was made of."""

from __future__ import annotations

import contextlib
import copy
import platform
import shutil
import tempfile
import threading
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from benchmarks.science.sizes import Size
from benchmarks.science.texts import DOMAINS, Skill, Texts
from flows.model_zoo.settings import Run
from flows.model_zoo.training import new_model, save_checkpoint, train
from merge_core.files.digests import digest_of

_SEEDED = threading.Lock()
"""A new model draws from torch's global generator."""


@dataclass(frozen=True)
class Training:
    """Trains with one seed; the seed decides the first weights and the order of the text."""

    size: Size
    texts: Texts
    seed: int
    work: Path

    @property
    def base(self) -> Path:
        """Pre-trained on both domains, as the zoo's base."""
        run = self.size.zoo.base
        skills = tuple(map(Skill, DOMAINS))

        def make(place: Path) -> None:
            self._train(self.new_model(), skills, run, self.seed, place)

        return self._found(["base", asdict(run), self._content(skills)], make)

    def expert(self, skill: Skill, *, faster: float = 1.0, steps: int | None = None) -> Path:
        """The base fine-tuned for a skill by the zoo's recipe, or at other rates or for longer."""
        usual = self.size.zoo.expert
        run = replace(
            usual,
            matrix_rate=usual.matrix_rate * faster,
            vector_rate=usual.vector_rate * faster,
            steps=steps or usual.steps,
            checkpoints=0,
        )
        return self._fine_tuned(skill, run)

    def checkpoints(self, skill: Skill, run: Run) -> list[Path]:
        """The checkpoints of a fine-tuning, first to last."""
        place = self._fine_tuned(skill, run)
        found = place.glob("checkpoint-*")
        return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))

    def new_model(self) -> LlamaForCausalLM:
        """This seed's first weights. (`from_pretrained` is not for two threads at once.)"""
        with _SEEDED:
            return new_model(self.size.zoo.shape, self.texts.tokenizer, self.seed)

    def _fine_tuned(self, skill: Skill, run: Run) -> Path:
        base = self.base

        def make(place: Path) -> None:
            model = self.new_model()
            load_weights(model, base)
            # Every training sees the text in another order, but for one that only decays otherwise.
            order = f"{self.seed} {skill} {run.steps} {run.matrix_rate}"
            seed = zlib.crc32(order.encode())
            self._train(model, (skill,), run, seed, place)

        return self._found(["expert", base.name, asdict(run), self._content((skill,))], make)

    def _train(
        self, model: Any, skills: tuple[Skill, ...], run: Run, seed: int, place: Path
    ) -> None:
        def keep(trained: LlamaForCausalLM, step: int, _: list[dict[str, float]]) -> None:
            save_checkpoint(
                copy.deepcopy(trained), self.texts.tokenizer, place / f"checkpoint-{step}"
            )

        streams = {str(skill): self.texts.stream(skill) for skill in skills}
        train(model, streams, run, stage=str(skills), seed=seed, on_checkpoint=keep)
        if not run.checkpoints:  # else the last checkpoint is the model
            save_checkpoint(model, self.texts.tokenizer, place)

    def _content(self, skills: tuple[Skill, ...]) -> dict[str, str]:
        return {str(skill): self.texts.digest(skill) for skill in skills}

    def _found(self, facts: list[Any], make: Callable[[Path], None]) -> Path:
        """The model that was made of these facts; made beside its place and renamed."""
        every = {
            "facts": facts,
            "seed": self.seed,
            "shape": asdict(self.size.zoo.shape),
            "version": self.size.zoo.version,
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        models = self.work / "models"
        place = models / digest_of(every)[:24]
        if not place.exists():
            models.mkdir(parents=True, exist_ok=True)
            fresh = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=models))
            make(fresh / "model")
            with contextlib.suppress(OSError):  # another thread was faster, and made the same
                (fresh / "model").rename(place)
            shutil.rmtree(fresh)
        return place


def load_weights(model: LlamaForCausalLM, directory: Path) -> None:
    """The weights of a checkpoint, into a model of the same shape.

    Raises:
        ValueError: it is of another shape.
    """
    weights = load_file(directory / "model.safetensors")
    missing, strange = model.load_state_dict(weights, strict=False)
    if strange or set(missing) - {"lm_head.weight"}:  # tied to the embeddings
        raise ValueError(f"{directory} is another model: {missing}, {strange}")
