"""Two task vectors, one three times as long: who wins, and does normalising help?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.science.chapters import Chapter, Finding, Panel, Table, plain, told
from benchmarks.science.experiments.tuned import chosen
from benchmarks.science.laboratory import Candidate, Laboratory
from benchmarks.science.results import measured, of_seeds
from benchmarks.science.sizes import Size
from benchmarks.science.texts import DOMAINS, Skill

PAPER = "Si et al. 2025 (NAN), arXiv:2505.16148"
FASTER = 3.0
SCALES = (0.15, 0.25, 0.35, 0.5, 0.7, 1.0)
EQUAL, NORMALISED = "equal weights", "normalised weights"


def run(laboratories: Sequence[Laboratory], size: Size) -> Chapter:
    """Equal weights beside weights by the inverse length, each at its tuned scale."""
    texts = laboratories[0].texts
    documents = [texts.texts(Skill(domain), "judging") for domain in DOMAINS]
    ratios: dict[int, float] = {}
    scales: dict[int, dict[str, float]] = {}

    def models(laboratory: Laboratory) -> Mapping[str, Candidate]:
        short = laboratory.expert(Skill("code"))
        long = laboratory.training.expert(Skill("prose"), faster=FASTER)
        lengths = [laboratory.length(path) for path in (short, long)]
        middle = sum(lengths) / 2
        ratios[laboratory.training.seed] = lengths[1] / lengths[0]
        ways = {EQUAL: (1.0, 1.0), NORMALISED: (middle / lengths[0], middle / lengths[1])}
        found: dict[str, Candidate] = {
            "base": laboratory.base,
            "short, code": short,
            "long, prose": long,
        }
        tuning = [texts.texts(Skill(domain), "tuning") for domain in DOMAINS]
        for name, (one, other) in ways.items():
            merges = {
                scale: laboratory.recipe(
                    "task_arithmetic",
                    [
                        (short, {"weight": round(scale * one, 6)}),
                        (long, {"weight": round(scale * other, 6)}),
                    ],
                )
                for scale in SCALES
            }
            best = chosen(laboratory, merges, tuning)
            scales.setdefault(laboratory.training.seed, {})[name] = best
            found[name] = merges[best]
        return found

    bits = measured(laboratories, models, documents)
    ratio = of_seeds([ratios[each.training.seed] for each in laboratories])
    shown = ("short, code", "long, prose", EQUAL, NORMALISED)
    best = {
        name: of_seeds([scales[each.training.seed][name] for each in laboratories])
        for name in (EQUAL, NORMALISED)
    }
    findings = [
        Finding(
            "With equal weights the longer task vector drowns the shorter.",
            PAPER,
            "equal weights are worse than normalised ones on the shorter one's domain, code,",
            bits.more(EQUAL, NORMALISED, 0),
        ),
        Finding(
            "Weights by the inverse length merge better.",
            PAPER,
            "normalised weights are better, mean of both domains, each way at its own tuned scale,",
            bits.more(EQUAL, NORMALISED),
        ),
    ]
    return Chapter(
        name="lengths",
        title="Unequal lengths",
        done=f"The prose expert is trained at {FASTER:g} times the zoo's rates: its task vector is"
        f" {plain(ratio, 2)} times as long as the code expert's. Tuned scale with equal weights"
        f" {plain(best[EQUAL], 2)}, with normalised ones {plain(best[NORMALISED], 2)} (of weights"
        " that a mean length has at 1).",
        findings=findings,
        panels=[
            Panel(
                "experts and merges against the base",
                [each.replace(", ", ",\n").replace(" weights", "\nweights") for each in shown],
                {
                    domain: [bits.more(name, "base", at) for name in shown]
                    for at, domain in enumerate(DOMAINS)
                },
                "",
                "bits per byte, more is worse",
                "base",
            )
        ],
        alt="Bars: both experts and both merges on code and prose, against the base",
        tables=[
            Table(
                ["against the base", *DOMAINS],
                [[name, *(told(bits.more(name, "base", at)) for at in range(2))] for name in shown],
            )
        ],
        numbers={
            "length_ratio": ratio,
            "normalising_helps_short_one": findings[0].estimate,
            "normalising_helps": findings[1].estimate,
        },
    )
