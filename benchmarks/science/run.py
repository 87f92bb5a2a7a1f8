"""Every experiment on the laboratories of every seed."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.science.chapters import Chapter
from benchmarks.science.experiments import EXPERIMENTS
from benchmarks.science.laboratory import WORKERS, Laboratory
from benchmarks.science.page import Run
from benchmarks.science.sizes import Size
from benchmarks.science.texts import DOMAINS, SKILLS, Skill, Texts
from benchmarks.science.training import Training
from flows.model_zoo.training import quiet_and_reproducible


def laboratories_of(run: Run, work: Path) -> list[Laboratory]:
    """One for each seed. The neighbour of the last is a seed more."""
    work.mkdir(parents=True, exist_ok=True)
    texts = Texts(run.size, work / f"suite-{run.size.zoo.name}-{run.size.zoo.version}")
    trainings = [Training(run.size, texts, seed, work) for seed in (*run.seeds, max(run.seeds) + 1)]
    return [Laboratory(own, neighbour, work) for own, neighbour in pairwise(trainings)]


def run_all(
    names: Sequence[str], laboratories: Sequence[Laboratory], size: Size
) -> dict[str, Chapter]:
    """The chapters of these experiments, by name."""
    with quiet_and_reproducible(laboratories[0].training.seed):
        if len(names) == len(EXPERIMENTS):  # else each trains what it needs
            with _told("the models of every seed"):
                _train(laboratories, size)
        chapters = {}
        for name in names:
            with _told(name):
                chapters[name] = EXPERIMENTS[name](laboratories, size)
    return chapters


def _train(laboratories: Sequence[Laboratory], size: Size) -> None:
    """Everything that several experiments need, two trainings at a time."""
    trainings = [*(each.training for each in laboratories), laboratories[-1].neighbour]
    decayed = replace(size.checkpoints, final=size.zoo.expert.final)
    prose = Skill("prose")
    with ThreadPoolExecutor(WORKERS) as pool:
        for base in [pool.submit(lambda own: own.base, each) for each in trainings]:
            base.result()
        jobs: list[Future[Any]] = []
        for own in trainings[:-1]:
            jobs += [
                pool.submit(own.expert, skill)
                for skill in (*map(Skill, DOMAINS), *SKILLS[: max(size.experts)])
            ]
            jobs += [
                pool.submit(own.checkpoints, prose, each) for each in (size.checkpoints, decayed)
            ]
            jobs += [
                pool.submit(own.expert, prose, faster=rate, steps=steps)
                for rate in size.soup_rates
                for steps in size.soup_steps
            ]
        for job in jobs:
            job.result()


@contextmanager
def _told(what: str) -> Iterator[None]:
    begun = time.monotonic()
    print(f"{what} ...", file=sys.stderr, flush=True)
    yield
    print(f"{what}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
