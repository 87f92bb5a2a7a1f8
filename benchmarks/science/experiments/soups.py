"""Is the mean of hyper-parameter variants better than the best of them?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.science.chapters import Chapter, Finding, Panel, plain
from benchmarks.science.laboratory import Candidate, Laboratory
from benchmarks.science.results import measured, of_seeds
from benchmarks.science.sizes import Size
from benchmarks.science.texts import Skill
from tasks.search.greedy_soup import greedy_soup, ranking

PAPER = "Wortsman et al. 2022, arXiv:2203.05482"
SKILL = Skill("prose")


def run(laboratories: Sequence[Laboratory], size: Size) -> Chapter:
    """Variants, their uniform and their greedy soup, chosen and judged on different documents."""
    texts = laboratories[0].texts
    tuning, judging = texts.texts(SKILL, "tuning"), texts.texts(SKILL, "judging")
    settings = [(rate, steps) for steps in size.soup_steps for rate in size.soup_rates]
    taken: dict[int, int] = {}

    def models(laboratory: Laboratory) -> Mapping[str, Candidate]:
        variants = [
            laboratory.training.expert(SKILL, faster=rate, steps=steps) for rate, steps in settings
        ]

        def soup(positions: Sequence[int]) -> dict[str, object]:
            return laboratory.recipe(
                "linear", [(variants[at], {"weight": 1.0}) for at in positions]
            )

        def score(candidate: Candidate) -> float:
            return -float(np.mean(laboratory.values(candidate, [tuning])[0]))

        singles = [score(each) for each in variants]
        greedy = greedy_soup(singles, lambda positions: score(soup(positions)))
        taken[laboratory.training.seed] = len(greedy.ingredients)
        return {
            "best single": variants[ranking(singles)[0]],
            **{_name(*each): path for each, path in zip(settings, variants, strict=True)},
            "all": soup(range(len(variants))),
            "greedy": soup(greedy.ingredients),
        }

    bits = measured(laboratories, models, [judging])
    shown = [*(_name(*each) for each in settings), "all", "greedy"]
    findings = [
        Finding(
            "A soup of variants of one fine-tuning is better than the best of them.",
            PAPER,
            f"the {said} is better than the best single one",
            bits.more("best single", name),
        )
        for name, said in (("all", "mean of all"), ("greedy", "greedy soup"))
    ]
    ingredients = of_seeds([taken[each.training.seed] for each in laboratories])
    return Chapter(
        name="soups",
        title="A soup of variants",
        done=f"{len(settings)} fine-tunings of the base on prose, each with a rate (times the"
        " zoo's) and a number of steps. The best single one and the greedy soup are chosen on"
        f" tuning documents. The greedy soup took {plain(ingredients, 1)} of them.",
        findings=findings,
        panels=[
            Panel(
                "variants and soups, prose",
                [each.replace(" for ", "\n") for each in shown],
                {"": [bits.more(name, "best single") for name in shown]},
                "rate, steps",
                "bits per byte, more is worse",
                "the best single one",
            )
        ],
        alt="Bars: each variant and both soups against the best single variant",
        numbers={
            "uniform_soup_better_than_best_single": findings[0].estimate,
            "greedy_soup_better_than_best_single": findings[1].estimate,
        },
    )


def _name(rate: float, steps: int) -> str:
    return f"{rate:g} for {steps}"
