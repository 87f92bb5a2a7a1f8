"""Does subtracting a task vector remove one ability and leave the others?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.science.chapters import Chapter, Finding, Panel, told
from benchmarks.science.estimates import Estimate, Part, estimate
from benchmarks.science.laboratory import Candidate, Laboratory
from benchmarks.science.results import Results, measured
from benchmarks.science.sizes import Size
from benchmarks.science.texts import DOMAINS, Skill

PAPER = "Ilharco et al. 2023, arXiv:2212.04089"
SCALES = (0.25, 0.5, 1.0)
JUDGED_AT = 0.5
CONTROL = 0.25
"""The control holds if it suffers less than this share of what the target does."""


def run(laboratories: Sequence[Laboratory], size: Size) -> Chapter:
    """Either domain negated; alone, and with the other's task vector added."""
    texts = laboratories[0].texts
    documents = [texts.texts(Skill(domain), "judging") for domain in DOMAINS]

    def models(laboratory: Laboratory) -> Mapping[str, Candidate]:
        found: dict[str, Candidate] = {"base": laboratory.base}
        experts = [laboratory.expert(Skill(domain)) for domain in DOMAINS]
        for at, domain in enumerate(DOMAINS):
            for scale in SCALES:
                less = (experts[at], {"weight": -scale})
                more = (experts[1 - at], {"weight": scale})
                found[f"{domain} alone {scale:g}"] = laboratory.recipe("task_arithmetic", [less])
                found[f"{domain} held {scale:g}"] = laboratory.recipe(
                    "task_arithmetic", [less, more]
                )
        return found

    bits = measured(laboratories, models, documents)
    harm = {
        how: {
            who: [_harm(bits, how, scale, who == "target") for scale in SCALES]
            for who in ("target", "control")
        }
        for how in ("alone", "held")
    }
    middle = SCALES.index(JUDGED_AT)
    shares = {how: _share(bits, how) for how in ("alone", "held")}
    findings = [
        Finding(
            "Subtracting a task vector harms its own task.",
            PAPER,
            f"the target gets worse at a scale of {JUDGED_AT:g}",
            harm["alone"]["target"][middle],
        ),
        Finding(
            "The other tasks (the control) hardly suffer.",
            PAPER,
            "the control's harm is below a quarter of the target's",
            _below(bits, "alone"),
            beside=f"it is {told(shares['alone'], 2)} times the target's",
        ),
        Finding(
            "With the control's own task vector added beside it, the control holds.",
            "by analogy to the same",
            "the control's harm is below a quarter of the target's",
            _below(bits, "held"),
            beside=f"it is {told(shares['held'], 2)} times the target's",
        ),
    ]
    titles = {"alone": "one task vector subtracted", "held": "and the other's added"}
    return Chapter(
        name="negation",
        title="Negation and its control",
        done="A scale times the code expert's task vector is subtracted from the base: code is the"
        " target and prose the control. Then the other way round; numbers are means of both. In a"
        " second series the control's own task vector is added at the same scale.",
        findings=findings,
        panels=[
            Panel(titles[how], SCALES, harm[how], "scale", "bits per byte, more is worse", "base")
            for how in ("alone", "held")
        ],
        alt="Harm to target and control over the scale, alone and with the other's vector added",
        numbers={
            "negation_control_harm_share": shares["alone"],
            "negation_control_harm_share_held": shares["held"],
        },
    )


def _parts(bits: Results, how: str, scale: float, target: bool, weight: float = 0.5) -> list[Part]:
    return [
        bits.difference(f"{domain} {how} {scale:g}", "base", at if target else 1 - at, weight)
        for at, domain in enumerate(DOMAINS)
    ]


def _harm(bits: Results, how: str, scale: float, target: bool) -> Estimate:
    return estimate(_parts(bits, how, scale, target))


def _below(bits: Results, how: str) -> Estimate:
    target = _parts(bits, how, JUDGED_AT, True, 0.5 * CONTROL)
    return estimate([*target, *_parts(bits, how, JUDGED_AT, False, -0.5)])


def _share(bits: Results, how: str) -> Estimate:
    """The control's harm over the target's, its error to first order."""
    target = _harm(bits, how, JUDGED_AT, True).mean
    share = _harm(bits, how, JUDGED_AT, False).mean / target
    around = estimate(
        [
            *_parts(bits, how, JUDGED_AT, False, 0.5 / target),
            *_parts(bits, how, JUDGED_AT, True, -0.5 * share / target),
        ]
    )
    return Estimate(share, around.error, around.seeds, around.documents)
