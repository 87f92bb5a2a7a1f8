"""Another base: the barrier between two trainings, and a task vector on a base it is not from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.science.chapters import Chapter, Finding, Panel, Table, told
from benchmarks.science.estimates import Estimate, Part, estimate
from benchmarks.science.laboratory import Candidate, Laboratory
from benchmarks.science.results import Results, measured
from benchmarks.science.sizes import Size
from benchmarks.science.texts import DOMAINS, Skill

CONNECTED = "Frankle et al. 2020, arXiv:1912.05671"
PERMUTED = "Ainsworth et al. 2023 (Git Re-Basin), arXiv:2209.04836"
PLACES = (0.0, 0.25, 0.5, 0.75, 1.0)
LINES = {"strangers": "bases of two seeds", "experts": "experts of one base"}


def run(laboratories: Sequence[Laboratory], size: Size) -> Chapter:
    """The lines between two bases and between two experts; a transplanted task vector."""
    texts = laboratories[0].texts
    documents = [texts.texts(Skill(domain), "judging") for domain in DOMAINS]

    def models(laboratory: Laboratory) -> Mapping[str, Candidate]:
        other = laboratory.neighbour
        code, prose = (laboratory.expert(Skill(domain)) for domain in DOMAINS)
        ends = {"strangers": (laboratory.base, other.base), "experts": (code, prose)}
        found: dict[str, Candidate] = {
            f"{name} {place:g}": laboratory.recipe(
                "linear", [(one, {"weight": 1.0 - place}), (two, {"weight": place})]
            )
            for name, (one, two) in ends.items()
            for place in PLACES
        }
        transplant = [
            (laboratory.base, {"weight": 1.0}),
            (other.expert(Skill("code")), {"weight": 1.0}),
            (other.base, {"weight": -1.0}),
        ]
        found["base"] = laboratory.base
        found["own"] = code
        found["transplanted"] = laboratory.recipe("linear", transplant, normalize=False)
        return found

    bits = measured(laboratories, models, documents)
    heights = {
        said: [_height(bits, name, place) for place in PLACES] for name, said in LINES.items()
    }
    middle = PLACES.index(0.5)
    strangers, experts = (heights[said][middle] for said in LINES.values())
    lower = Estimate(-experts.mean, experts.error, experts.seeds, experts.documents)
    findings = [
        Finding(
            "Between two trainings from different seeds there is a barrier.",
            PERMUTED,
            "the middle of the line is above the mean of its ends",
            strangers,
        ),
        Finding(
            "Between fine-tunings of one base there is none.",
            CONNECTED,
            "the middle of the line is below the mean of its ends",
            lower,
        ),
        Finding(
            "A task vector of another base teaches nothing.",
            PERMUTED,
            "the base with it is worse than without, on the task vector's own domain, code,",
            bits.more("transplanted", "base", 0),
        ),
    ]
    return Chapter(
        name="strangers",
        title="Another base",
        done="The line between this base and that of another seed, and the line between the two"
        " experts, by the mean of both domains. Then the other base's code task vector is added to"
        " this base. `mergeflow` refuses both merges of strangers, so the check is turned off.",
        findings=findings,
        panels=[
            Panel(
                "along the line",
                PLACES,
                heights,
                "from one end to the other",
                "bits per byte, more is worse",
                "the straight line between the ends",
            ),
            Panel(
                "the line between experts alone",
                PLACES,
                {LINES["experts"]: heights[LINES["experts"]]},
                "from the code expert to the prose expert",
                "bits per byte, more is worse",
                "the straight line between the ends",
            ),
        ],
        alt="Height over the straight line: a mountain between strangers, a valley between experts",
        tables=[
            Table(
                ["against the base", *DOMAINS],
                [
                    [said, *(told(bits.more(name, "base", at)) for at in range(2))]
                    for name, said in (
                        ("own", "its own code expert"),
                        ("transplanted", "another base's code task vector"),
                    )
                ],
            )
        ],
        numbers={
            "barrier_other_base": strangers,
            "barrier_same_base": experts,
            "transplant_harm": findings[2].estimate,
        },
    )


def _height(bits: Results, name: str, place: float) -> Estimate:
    """Above the straight line between the ends, mean of both domains."""
    parts = []
    for at, documents in enumerate(bits.documents):
        line = (1.0 - place) * bits.values[f"{name} 0"][at] + place * bits.values[f"{name} 1"][at]
        own = bits.values[f"{name} {place:g}"][at] - line
        parts.append(Part(own, documents.groups, 1 / len(bits.documents)))
    return estimate(parts)
