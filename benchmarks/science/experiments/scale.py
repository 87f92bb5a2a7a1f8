"""How good is the sum of two task vectors at each scale?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.science.chapters import Chapter, Finding, Panel, Table, plain, told
from benchmarks.science.estimates import Estimate
from benchmarks.science.laboratory import Candidate, Laboratory, across
from benchmarks.science.results import Results, measured, of_seeds
from benchmarks.science.sizes import Size
from benchmarks.science.texts import DOMAINS, Skill
from merge_core.operations.profile import Section, profile_task_vectors

PAPER = "Ilharco et al. 2023, arXiv:2212.04089"
HALF = 0.5


def run(laboratories: Sequence[Laboratory], size: Size) -> Chapter:
    """Both domains over the scale."""
    texts = laboratories[0].texts
    documents = [texts.texts(Skill(domain), "judging") for domain in DOMAINS]
    questions = [texts.questions(domain, "judging") for domain in DOMAINS]
    most = max(size.scales)

    def models(laboratory: Laboratory) -> Mapping[str, Candidate]:
        experts = [laboratory.expert(Skill(domain)) for domain in DOMAINS]
        sums = {f"{scale:g}": laboratory.added(scale, *experts) for scale in size.scales}
        return {"0": laboratory.base, **sums}

    bits = measured(laboratories, models, documents)
    right = measured(laboratories, models, questions)
    scales = [0.0, *size.scales]
    curves = {
        domain: [bits.more(f"{scale:g}", "0", at) for scale in scales]
        for at, domain in enumerate(DOMAINS)
    }
    answers = {
        domain: [right.more(f"{scale:g}", "0", at) for scale in scales]
        for at, domain in enumerate(DOMAINS)
    }
    both = [bits.more(f"{scale:g}", "0") for scale in scales]
    near = [place for place, scale in enumerate(scales) if scale <= 1.0]
    findings = [
        Finding(
            "The sum of two task vectors at a scale below 1 is better than the base on both tasks.",
            PAPER,
            f"0.5 + 0.5 is better than the base on {domain}",
            bits.more("0", f"{HALF:g}", at),
        )
        for at, domain in enumerate(DOMAINS)
    ]
    findings.append(
        Finding(
            "Beyond some scale the sum is worse than the base.",
            PAPER,
            f"a scale of {most:g} is worse than the base, mean of both domains,",
            both[-1],
        )
    )
    best = scales[int(np.argmin([each.mean for each in both]))]
    crossing, error = crossings(bits, scales)
    sections = across(laboratories, _both_vectors)
    lengths = of_seeds([sum(each.relative_norms) / 2 for each in sections])
    cosines = of_seeds([each.cosines[0] or 0.0 for each in sections])
    rows = [
        [
            f"{scale:g}",
            *(told(curves[d][place]) for d in DOMAINS),
            *(told(answers[d][place]) for d in DOMAINS),
        ]
        for place, scale in enumerate(scales)
    ]
    return Chapter(
        name="scale",
        title="The scale of a sum",
        done="The base plus a scale times both task vectors. Of these scales the best is"
        f" {best:g}. "
        f"The two are {plain(lengths)} times as long as the base, their cosine is"
        f" {plain(cosines)}. "
        + (
            f"The sum is as good as the base again at {crossing:.2f} ± {error:.2f} (read between"
            " the points, the error over seeds alone)."
            if math.isfinite(crossing)
            else "At no scale here was it as bad as the base again with every seed."
        ),
        findings=findings,
        panels=[
            Panel("all scales", scales, curves, "scale", "bits per byte, more is worse", "base"),
            Panel(
                "up to 1",
                [scales[place] for place in near],
                {name: [found[place] for place in near] for name, found in curves.items()},
                "scale",
                "bits per byte, more is worse",
                "base",
            ),
            Panel(
                "right answers",
                scales,
                answers,
                "scale",
                "share of questions, more is better",
                "base",
            ),
        ],
        alt="Bits per byte over the scale: a valley below 1, then a steep rise",
        tables=[
            Table(
                [
                    "scale",
                    *(f"bits per byte, {d}" for d in DOMAINS),
                    *(f"right answers, {d}" for d in DOMAINS),
                ],
                rows,
            )
        ],
        numbers={
            "best_scale_of_two": best,
            "relative_length_of_task_vectors": lengths,
            "cosine_of_task_vectors": cosines,
            "scale_as_good_as_base": Estimate(crossing, error, len(laboratories), 0),
            "damage_at_largest_scale": both[-1],
        },
    )


def _both_vectors(laboratory: Laboratory) -> Section:
    experts = [laboratory.source(laboratory.expert(Skill(domain))) for domain in DOMAINS]
    base = laboratory.source(laboratory.base)
    return profile_task_vectors(base, experts, threads=1).overall


def crossings(bits: Results, scales: Sequence[float]) -> tuple[float, float]:
    """Mean and error over seeds of the first scale at which the sum is no better than the base.

    NaN where there is none among these scales.
    """
    over = np.mean(
        [
            np.stack(
                [(bits.values[f"{s:g}"][at] - bits.values["0"][at]).mean(axis=1) for s in scales]
            )
            for at in range(len(bits.documents))
        ],
        axis=0,
    )
    found = [_crossing(scales, over[:, seed]) for seed in range(over.shape[1])]
    error = float(np.std(found, ddof=1) / np.sqrt(len(found))) if len(found) > 1 else 0.0
    return float(np.mean(found)), error


def _crossing(scales: Sequence[float], over: Sequence[float]) -> float:
    for place in range(1, len(scales)):
        low, high = over[place - 1], over[place]
        if high >= 0.0 and (place > 1 or len(scales) == 2):
            share = -low / (high - low) if low < 0.0 else 0.0
            return float(scales[place - 1] + share * (scales[place] - scales[place - 1]))
    return float("nan")
