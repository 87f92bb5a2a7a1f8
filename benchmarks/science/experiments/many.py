"""TIES and DARE beside task arithmetic and the mean, for two to eight experts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.science.chapters import SHARE, Chapter, Finding, Panel, Table, plain, told
from benchmarks.science.estimates import Estimate, Part, estimate
from benchmarks.science.experiments.tuned import DENSITY, WAYS, of_experts, tuned_scale
from benchmarks.science.laboratory import Candidate, Laboratory
from benchmarks.science.results import Results, measured, of_seeds
from benchmarks.science.sizes import Size
from benchmarks.science.texts import DOMAINS, SKILLS, Skill

TIES = "Yadav et al. 2023, arXiv:2306.01708"
DARE = "Yu et al. 2024, arXiv:2311.03099"
MEAN = "mean"
NAMES = (MEAN, *(way.name for way in WAYS))
DROPPED = 0.1
"""Density at which DARE's paper still loses nothing."""
ENOUGH = 0.9


def run(laboratories: Sequence[Laboratory], size: Size) -> Chapter:
    """Each method at its own tuned scale, for each number of experts."""
    found = {count: _measured(laboratories, SKILLS[:count]) for count in size.experts}
    pair = _measured(laboratories, tuple(map(Skill, DOMAINS)))
    alone, single = _dropped(laboratories)
    kept = {
        name: [_kept(found[count][0], name, SKILLS[:count]) for count in size.experts]
        for name in NAMES
    }
    scales = [
        [
            str(count),
            *(plain(of_seeds([each[name] for each in found[count][1]]), 2) for name in NAMES[1:]),
        ]
        for count in size.experts
    ]
    findings = [
        *(
            Finding(
                f"{name} merges several experts better than {other} does.",
                paper,
                f"{name} keeps more than {other}, mean over {_counted(size.experts)} experts,",
                _more(found, name, other),
                SHARE,
            )
            for name, other, paper in (
                ("TIES", "mean", TIES),
                ("TIES", "task arithmetic", TIES),
                ("DARE", "task arithmetic", DARE),
                ("DARE with TIES", "task arithmetic", DARE),
            )
        ),
        Finding(
            "TIES merges two experts better than task arithmetic does.",
            TIES,
            "TIES is better on the zoo's own two experts, plain code and prose,",
            pair[0].more("task arithmetic", "TIES"),
        ),
        Finding(
            "Nine tenths of a task vector's entries can be dropped at random without loss.",
            DARE,
            f"single experts at density {DROPPED:g} keep more than {ENOUGH:g} of their gain",
            single,
            "of it",
            beside=f"they keep {plain(alone, 2)}",
        ),
    ]
    rows = [
        [name, *(plain(each) for each in kept[name]), told(pair[0].more(name, "base"))]
        for name in NAMES
    ]
    return Chapter(
        name="many",
        title="TIES and DARE, two to eight experts",
        done="Experts of the dialects, two at first and up to eight. Each method's scale is tuned"
        f" on other documents, for each seed and number of experts. TIES and DARE keep {DENSITY:g}"
        " of the entries; DARE rescales by the inverse density. The measure is the share of each"
        " expert's gain over the base that the merge keeps, mean over its dialects.",
        findings=findings,
        panels=[
            Panel(
                "dialects: share of the experts' gain kept",
                list(size.experts),
                kept,
                "experts",
                "share, more is better",
            ),
            Panel(
                "the zoo's two experts, plain",
                [each.replace(" with ", "\nwith ").replace("task ", "task\n") for each in NAMES],
                {"": [pair[0].more(name, "base") for name in NAMES]},
                "",
                "bits per byte, more is worse",
                "base",
            ),
        ],
        alt="Share of the experts' gain that each method keeps, over the number of experts",
        tables=[
            Table(
                ["kept", *(f"{count} experts" for count in size.experts), "plain pair, bits"], rows
            ),
            Table(["experts: tuned scale", *NAMES[1:]], scales),
        ],
        notes=list(_ends({count: found[count][1] for count in size.experts})),
        numbers={
            **{
                f"kept_{name.replace(' ', '_').lower()}_{count}": kept[name][at]
                for name in NAMES
                for at, count in enumerate(size.experts)
            },
            "ties_over_task_arithmetic": findings[1].estimate,
            "dare_over_task_arithmetic": findings[2].estimate,
            "dare_single_kept_at_density_0.1": alone,
        },
    )


def _measured(
    laboratories: Sequence[Laboratory], skills: Sequence[Skill]
) -> tuple[Results, list[dict[str, float]]]:
    """Every method at its tuned scale on judging documents, and the scales of each seed."""
    scales: dict[int, dict[str, float]] = {}

    def models(laboratory: Laboratory) -> Mapping[str, Candidate]:
        experts = [laboratory.expert(skill) for skill in skills]
        tuned = {way.name: tuned_scale(laboratory, way, skills) for way in WAYS}
        scales[laboratory.training.seed] = tuned
        return {
            "base": laboratory.base,
            **{str(skill): path for skill, path in zip(skills, experts, strict=True)},
            MEAN: laboratory.recipe("linear", [(each, {"weight": 1.0}) for each in experts]),
            **{way.name: way.recipe(laboratory, experts, tuned[way.name]) for way in WAYS},
        }

    documents = [laboratories[0].texts.texts(skill, "judging") for skill in skills]
    found = measured(laboratories, models, documents)
    return found, [scales[each.training.seed] for each in laboratories]


def _dropped(laboratories: Sequence[Laboratory]) -> tuple[Estimate, Estimate]:
    """What single experts keep after DARE, and how much more that is than enough."""
    count = 2

    def extra(laboratory: Laboratory, experts: Sequence[Path]) -> Mapping[str, Candidate]:
        how = {"density": DROPPED, "rescale": "inverse_density"}
        return {
            f"dropped {at}": laboratory.recipe("dare_linear", [(path, {"weight": 1.0})], **how)
            for at, path in enumerate(experts)
        }

    documents = [laboratories[0].texts.texts(skill, "judging") for skill in SKILLS[:count]]
    found = measured(laboratories, of_experts(count, extra), documents)
    parts = [
        found.kept(f"dropped {at}", "base", list(map(str, SKILLS[:count])))[at]
        for at in range(count)
    ]
    kept = estimate(parts)
    return kept, Estimate(kept.mean - ENOUGH, kept.error, kept.seeds, kept.documents)


def _kept(found: Results, name: str, skills: Sequence[Skill]) -> Estimate:
    return estimate(found.kept(name, "base", list(map(str, skills))))


def _more(
    found: Mapping[int, tuple[Results, list[dict[str, float]]]], name: str, other: str
) -> Estimate:
    """By how much a method keeps more than another, mean over the numbers of experts."""
    parts: list[Part] = []
    for count, (results, _) in found.items():
        skills = list(map(str, SKILLS[:count]))
        parts += results.kept(name, "base", skills, 1 / len(found))
        parts += results.kept(other, "base", skills, -1 / len(found))
    return estimate(parts)


def _ends(tuned: Mapping[int, Sequence[Mapping[str, float]]]) -> Iterator[str]:
    """Where a tuned scale is the first or the last that was tried, a better one may lie beyond."""
    for way in WAYS:
        chosen = [seed[way.name] for seeds in tuned.values() for seed in seeds]
        at_end = sum(scale in (way.scales[0], way.scales[-1]) for scale in chosen)
        if at_end:
            yield (
                f"Of {way.name}'s {len(chosen)} tuned scales {at_end} lie at an end of those"
                f" that were tried ({way.scales[0]:g} to {way.scales[-1]:g}): a better one may be"
                " beyond."
            )


def _counted(counts: Sequence[int]) -> str:
    return f"{', '.join(map(str, counts[:-1]))} and {counts[-1]}"
