"""Averaging a run's checkpoints, at a constant learning rate and at one that decays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from benchmarks.science.chapters import Chapter, Finding, Panel, Table, told
from benchmarks.science.estimates import estimate
from benchmarks.science.laboratory import Candidate, Laboratory
from benchmarks.science.results import measured
from benchmarks.science.sizes import Size
from benchmarks.science.texts import Skill

LAWA = "Kaddour 2022 (LAWA), arXiv:2209.14981"
HIGH_RATES = "Sanyal et al. 2023, arXiv:2306.03241"
WSM = "Tian et al. 2025 (WSM), arXiv:2507.17634"
SKILL = Skill("prose")


def run(laboratories: Sequence[Laboratory], size: Size) -> Chapter:
    """Uniform means of the last checkpoints of two runs that differ in their decay alone."""
    constant = size.checkpoints
    decayed = replace(constant, final=size.zoo.expert.final)
    count = constant.checkpoints
    counts = (1, count // 3, 2 * count // 3, count)
    judging = laboratories[0].texts.texts(SKILL, "judging")

    def models(laboratory: Laboratory) -> Mapping[str, Candidate]:
        found: dict[str, Candidate] = {"base": laboratory.base}
        for name, settings in (("constant", constant), ("decayed", decayed)):
            run = laboratory.training.checkpoints(SKILL, settings)
            found[f"{name} 1"] = run[-1]
            for last in counts[1:]:
                average = [(path, {"weight": 1.0}) for path in run[-last:]]
                found[f"{name} {last}"] = laboratory.recipe("linear", average)
        return found

    bits = measured(laboratories, models, [judging])
    half = counts[1]
    findings = [
        Finding(
            "At a constant rate, the mean of the last checkpoints is better than the last one.",
            LAWA,
            f"the mean of the last {half} is better",
            bits.more("constant 1", f"constant {half}"),
        ),
        Finding(
            "Averaging gains more at a high learning rate than after a decay.",
            HIGH_RATES,
            f"the last {half} gain more without the decay than with it",
            estimate(
                [
                    bits.difference("constant 1", f"constant {half}", 0),
                    bits.difference("decayed 1", f"decayed {half}", 0, -1.0),
                ]
            ),
        ),
        Finding(
            "Averages of a run without decay are better than the same run with decay.",
            WSM,
            f"the mean of all {count} at a constant rate is better than the decayed run's"
            " last checkpoint",
            bits.more("decayed 1", f"constant {count}"),
        ),
    ]
    series = {
        said: [bits.more(f"{name} {last}", "decayed 1") for last in counts]
        for name, said in (("constant", "constant rate"), ("decayed", "decayed rate"))
    }
    return Chapter(
        name="averages",
        title="Averages of checkpoints",
        done=f"Two fine-tunings of the base on prose, {constant.steps} steps with {count}"
        " checkpoints, with the same text in the same order. One ends at its highest rate, the"
        f" other at {decayed.final:g} of it.",
        findings=findings,
        panels=[
            Panel(
                "means of the last checkpoints, prose",
                list(counts),
                series,
                "last checkpoints averaged",
                "bits per byte, more is worse",
                "the decayed run's last one",
            )
        ],
        alt="Bits per byte over the number of checkpoints averaged, with and without decay",
        tables=[
            Table(
                ["against the decayed run's last one", *(f"last {each}" for each in counts)],
                [[name, *(told(each) for each in found)] for name, found in series.items()],
            )
        ],
        numbers={
            "averaging_gain_constant_rate": findings[0].estimate,
            "averaging_gain_decayed_rate": bits.more("decayed 1", f"decayed {half}"),
        },
    )
