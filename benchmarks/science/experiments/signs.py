"""How often signs are in conflict, and whether to resolve them helps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.science.chapters import SHARE, Chapter, Finding, Panel, plain
from benchmarks.science.estimates import Estimate, Part, estimate
from benchmarks.science.experiments.tuned import ARITHMETIC, of_experts, tuned_scale
from benchmarks.science.laboratory import Candidate, Laboratory, across
from benchmarks.science.results import Results, measured, of_seeds
from benchmarks.science.sizes import Size
from benchmarks.science.texts import SKILLS
from merge_core.operations.profile import profile_task_vectors

PAPER = "Yadav et al. 2023, arXiv:2306.01708"


def run(laboratories: Sequence[Laboratory], size: Size) -> Chapter:
    """Conflicts by number of experts, and sums with and without elected signs at equal length."""
    shares = {count: _shares(laboratories, count) for count in size.experts}
    conflicts = [of_seeds(shares[count]) for count in size.experts]
    chance = [1.0 - 2.0 ** (1 - count) for count in size.experts]
    found = {count: _measured(laboratories, count) for count in size.experts}
    names = {"sum": "plain sum", "elected": "signs elected, as long"}
    kept = {
        said: [_kept(found[count], name, count) for count in size.experts]
        for name, said in names.items()
    }
    helps: list[Part] = []
    for count in size.experts:
        skills = list(map(str, SKILLS[:count]))
        helps += found[count].kept("elected", "base", skills, 1 / len(size.experts))
        helps += found[count].kept("sum", "base", skills, -1 / len(size.experts))
    fewest, most = (shares[count] for count in (size.experts[0], size.experts[-1]))
    more = of_seeds([one - other for one, other in zip(most, fewest, strict=True)])
    findings = [
        Finding(
            "The more experts, the more entries are in conflict.",
            PAPER,
            f"the share of entries in conflict is larger with {size.experts[-1]} experts"
            f" than with {size.experts[0]}",
            more,
            "of the entries",
        ),
        Finding(
            "To resolve sign conflicts improves the merge.",
            PAPER,
            "the merge with elected signs keeps more than the plain sum of the same length",
            estimate(helps),
            SHARE,
        ),
    ]
    return Chapter(
        name="signs",
        title="Sign conflicts",
        done="An entry is in conflict if any two of the experts that changed it moved it in"
        f" opposite directions: {', '.join(plain(each, 2) for each in conflicts)} of the entries"
        f" for {', '.join(map(str, size.experts))} experts (error over seeds). Then the plain sum"
        " at its tuned scale is compared with TIES without trimming or division (the entries that"
        " agree with the elected sign are added), scaled to the same length as the plain sum.",
        findings=findings,
        panels=[
            Panel(
                "entries in conflict",
                list(size.experts),
                {"measured": conflicts},
                "experts",
                "share of entries that two or more changed",
                unmeasured={"chance": chance},
            ),
            Panel(
                "at equal length",
                list(size.experts),
                kept,
                "experts",
                "share of the experts' gain kept",
            ),
        ],
        alt="Entries in conflict over the number of experts, and what electing signs keeps",
        numbers={
            **{f"sign_conflicts_{count}": conflicts[at] for at, count in enumerate(size.experts)},
            "elected_signs_at_equal_length": findings[1].estimate,
        },
    )


def _shares(laboratories: Sequence[Laboratory], count: int) -> list[float]:
    """The share of entries in conflict, of each seed."""

    def one(laboratory: Laboratory) -> float:
        experts = [laboratory.source(laboratory.expert(skill)) for skill in SKILLS[:count]]
        base = laboratory.source(laboratory.base)
        return profile_task_vectors(base, experts, threads=1).overall.any_conflict

    return across(laboratories, one)


def _measured(laboratories: Sequence[Laboratory], count: int) -> Results:
    def extra(laboratory: Laboratory, experts: Sequence[Path]) -> Mapping[str, Candidate]:
        scale = tuned_scale(laboratory, ARITHMETIC, SKILLS[:count])
        plain_sum = ARITHMETIC.recipe(laboratory, experts, scale)
        return {"sum": plain_sum, "elected": _elected(laboratory, experts, plain_sum)}

    documents = [laboratories[0].texts.texts(skill, "judging") for skill in SKILLS[:count]]
    return measured(laboratories, of_experts(count, extra), documents)


def _elected(
    laboratory: Laboratory, experts: Sequence[Path], plain_sum: Candidate
) -> dict[str, object]:
    """The sum of the entries that agree with the elected sign, as long as the plain sum."""
    models = [(each, {"weight": 1.0}) for each in experts]

    def at(scale: float) -> dict[str, object]:
        how = {"density": 1.0, "normalize": False, "lambda": scale}
        return laboratory.recipe("ties", models, **how)

    ratio = laboratory.length(plain_sum) / laboratory.length(at(1.0))
    return at(round(ratio, 6))


def _kept(found: Results, name: str, count: int) -> Estimate:
    return estimate(found.kept(name, "base", list(map(str, SKILLS[:count]))))
