"""Models of one seed, merged by merge_core and measured by forward passes, each only once."""

from __future__ import annotations

import math
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from benchmarks.science.texts import Documents, Skill, Texts
from benchmarks.science.training import Training, load_weights
from flows.model_zoo.measure import log_likelihoods
from merge_core.checkpoints.sources import describe_source
from merge_core.files.digests import DigestMemo, digest_of
from merge_core.homes.home import Home
from merge_core.operations.merge import merge
from merge_core.planning.layout import DEFAULT_SHARD_BYTES
from merge_core.recipes.loading import parse_recipe
from merge_core.records import SourceCheckpoint
from merge_core.runtime.compute import Compute
from merge_core.store.objects import Wanted

Values = NDArray[np.float64]
Candidate = Path | dict[str, Any]
"""A trained model, or the recipe of a merge."""
Answer = TypeVar("Answer")
WORKERS = 2


@dataclass
class Laboratory:
    """One seed's models and measurements; used by one thread at a time."""

    training: Training
    neighbour: Training
    """Another seed's: the other base."""
    work: Path
    _sources: dict[Path, SourceCheckpoint] = field(default_factory=dict)
    _model: LlamaForCausalLM | None = None

    @property
    def texts(self) -> Texts:
        """The same for every seed."""
        return self.training.texts

    @property
    def base(self) -> Path:
        """This seed's base."""
        return self.training.base

    def expert(self, skill: Skill) -> Path:
        """The zoo's expert of a skill."""
        return self.training.expert(skill)

    def recipe(
        self, method: str, models: Sequence[tuple[Path, Mapping[str, Any]]], **parameters: Any
    ) -> dict[str, Any]:
        """A recipe on this seed's base, where the method has one."""
        listed = [{"model": str(path), "parameters": dict(own)} for path, own in models]
        recipe: dict[str, Any] = {"merge_method": method, "models": listed}
        if method not in ("linear",):
            recipe["base_model"] = str(self.base)
        if parameters:
            recipe["parameters"] = parameters
        return recipe

    def added(self, scale: float, *experts: Path) -> dict[str, Any]:
        """Task arithmetic: the base and `scale` times each task vector."""
        return self.recipe("task_arithmetic", [(each, {"weight": scale}) for each in experts])

    def values(self, candidate: Candidate, documents: Sequence[Documents]) -> list[Values]:
        """Bits per byte of each document, or of questions 1 for a right answer.

        A document's bits are over the mean size, so that their mean is that of the whole text.
        """
        kept = [self._kept(candidate, each) for each in documents]
        if not all(path.exists() for path in kept):
            with _Checkpoint(self, candidate) as directory:
                self._measure(directory, documents, kept)
        return [_as_values(np.load(path), each) for path, each in zip(kept, documents, strict=True)]

    def length(self, candidate: Candidate) -> float:
        """The norm of what a candidate adds to the base."""
        with _Checkpoint(self, candidate) as directory:
            after = load_file(directory / "model.safetensors")
        before = load_file(self.base / "model.safetensors")
        squares = [(after[name].double() - before[name].double()).square().sum() for name in before]
        return math.sqrt(float(sum(squares)))

    def source(self, path: Path) -> SourceCheckpoint:
        """A trained model as merge_core knows it."""
        if path not in self._sources:
            self._sources[path] = describe_source(str(path), path, DigestMemo(None))
        return self._sources[path]

    def merged(self, recipe: dict[str, Any], place: Path) -> Path:
        """Merge into a new directory below `place`."""
        parsed = parse_recipe(recipe)
        sources = {each: self.source(Path(each)) for each in parsed.references()}
        out = place / "merged"
        merge(
            parsed,
            sources,
            home=Home(place / "home"),
            out=out,
            compute=Compute(threads=1),
            check=False,  # among them are merges of strangers, which are refused otherwise
        )
        return out

    def _kept(self, candidate: Candidate, documents: Documents) -> Path:
        if isinstance(candidate, Path):
            content = self.source(candidate).digest
        else:
            parsed = parse_recipe(candidate)
            sources = {each: self.source(Path(each)) for each in parsed.references()}
            content = Wanted.of_recipe(parsed, sources, DEFAULT_SHARD_BYTES).plan_digest
        facts = [content, documents.digest, torch.__version__, transformers.__version__]
        return self.work / "measured" / f"{digest_of(facts)[:32]}.npy"

    def _measure(self, directory: Path, documents: Sequence[Documents], kept: list[Path]) -> None:
        if self._model is None:
            self._model = self.training.new_model().eval()
        load_weights(self._model, directory)
        for each, path in zip(documents, kept, strict=True):
            if not path.exists():
                with torch.inference_mode():
                    found = log_likelihoods(self._model, list(each.pairs))
                path.parent.mkdir(parents=True, exist_ok=True)
                fresh = path.with_suffix(f".{threading.get_ident()}.new.npy")
                np.save(fresh, found.double().numpy())
                fresh.rename(path)


class _Checkpoint:
    """The directory of a candidate: a trained model's own, or a merge that is removed after."""

    def __init__(self, laboratory: Laboratory, candidate: Candidate) -> None:
        self._laboratory, self._candidate = laboratory, candidate
        self._scratch: Path | None = None

    def __enter__(self) -> Path:
        if isinstance(self._candidate, Path):
            return self._candidate
        self._scratch = Path(tempfile.mkdtemp(prefix="mergeflow-science-"))
        return self._laboratory.merged(self._candidate, self._scratch)

    def __exit__(self, *_: object) -> None:
        if self._scratch is not None:
            shutil.rmtree(self._scratch)


def across(
    laboratories: Sequence[Laboratory], question: Callable[[Laboratory], Answer]
) -> list[Answer]:
    """What each seed's laboratory answers, `WORKERS` of them at work at a time."""
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(question, laboratories))


def _as_values(found: Values, documents: Documents) -> Values:
    if documents.answers:
        choices = found.reshape(len(documents.answers), -1).argmax(axis=1)
        return np.asarray(choices == np.asarray(documents.answers), dtype=np.float64)
    size = float(np.mean(documents.sizes))
    return np.asarray(-found / math.log(2) / size)
