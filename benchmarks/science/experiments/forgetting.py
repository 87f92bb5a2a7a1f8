"""Does an expert forget what it is not trained on?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.science.chapters import Chapter, Finding, Panel, Table, plain, told
from benchmarks.science.laboratory import Candidate, Laboratory
from benchmarks.science.results import measured
from benchmarks.science.sizes import Size
from benchmarks.science.texts import DOMAINS, Skill

PAPER = "Luo et al. 2023, arXiv:2308.08747"


def run(laboratories: Sequence[Laboratory], size: Size) -> Chapter:
    """Both experts on both domains."""
    texts = laboratories[0].texts
    documents = [texts.texts(Skill(domain), "judging") for domain in DOMAINS]
    questions = [texts.questions(domain, "judging") for domain in DOMAINS]

    def models(laboratory: Laboratory) -> Mapping[str, Candidate]:
        experts = {f"{each} expert": laboratory.expert(Skill(each)) for each in DOMAINS}
        return {"base": laboratory.base, **experts}

    bits = measured(laboratories, models, documents)
    right = measured(laboratories, models, questions)
    experts = [f"{domain} expert" for domain in DOMAINS]
    own = [bits.more("base", f"{domain} expert", at) for at, domain in enumerate(DOMAINS)]
    lost = [bits.more(f"{domain} expert", "base", 1 - at) for at, domain in enumerate(DOMAINS)]
    rows = [
        [
            name,
            *(plain(bits.level(name, at)) for at in range(2)),
            *(plain(right.level(name, at)) for at in range(2)),
        ]
        for name in ("base", *experts)
    ]
    findings = [
        Finding(
            "A model that is fine-tuned on one domain gets worse at others.",
            PAPER,
            f"the {domain} expert is worse than the base on {DOMAINS[1 - at]}",
            lost[at],
        )
        for at, domain in enumerate(DOMAINS)
    ]
    changes = {name: [bits.more(name, "base", at) for at in range(2)] for name in experts}
    answers = {name: [right.more(name, "base", at) for at in range(2)] for name in experts}
    return Chapter(
        name="forgetting",
        title="Experts forget",
        done="Base and experts are the zoo's. Each is judged on both domains. On its own domain"
        f" the code expert gains {told(own[0])} bits per byte, the prose expert {told(own[1])}.",
        findings=findings,
        panels=[
            Panel(
                "bits per byte against the base",
                DOMAINS,
                changes,
                "judged on",
                "more is worse",
                "base",
            ),
            Panel(
                "right answers against the base",
                DOMAINS,
                answers,
                "judged on",
                "share of questions",
                "base",
            ),
        ],
        alt="Bars: each expert needs fewer bits than the base on its own domain; the other bars"
        " show the other domain",
        tables=[
            Table(
                [
                    "",
                    *(f"bits per byte, {each}" for each in DOMAINS),
                    *(f"right answers, {each}" for each in DOMAINS),
                ],
                rows,
            )
        ],
        numbers={
            **{f"forgotten_by_{each}_expert": lost[at] for at, each in enumerate(DOMAINS)},
            **{f"gained_by_{each}_expert": own[at] for at, each in enumerate(DOMAINS)},
        },
    )
