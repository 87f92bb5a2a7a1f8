"""What follows from the numbers: sentences chosen by what was seen, never by what was expected."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from benchmarks.science.chapters import Chapter, Finding, plain
from benchmarks.science.estimates import Estimate

AT_LARGE = (
    "At the size of LLMs a tuned task arithmetic is hard to beat. In the study of Hitit et al."
    " (2025, arXiv:2511.21437: four models of 3 to 8 B, twelve experts each, sixteen benchmarks)"
    " it is the only method that reliably gains; the methods against interference did not. Yadav"
    " et al. (2024, arXiv:2410.03617: 1 to 64 B, up to eight experts) find that methods become"
    " alike as models grow, and that larger models and better bases merge better."
)


def advice(chapters: Mapping[str, Chapter]) -> Iterator[str]:
    """One sentence or two for each chapter that has something to say."""
    for name, say in _SAYINGS.items():
        if name in chapters:
            yield say(chapters[name])


def _scale(chapter: Chapter) -> str:
    best, back = chapter.numbers["best_scale_of_two"], chapter.numbers["scale_as_good_as_base"]
    assert isinstance(back, Estimate)
    said = f"**Scale.** Begin a sum of two task vectors at {best:g}."
    if not math.isfinite(back.mean):
        return said
    return f"{said} Above {back.mean:.1f} it was worse than the base: lower a scale that is beyond."


def _soups(chapter: Chapter) -> str:
    uniform, greedy = chapter.findings
    held = [f for f in (uniform, greedy) if f.estimate.verdict == "held"]
    if len(held) == 2:
        return "**Variants.** Average them: all of them or a greedy soup was better than any alone."
    if held:
        which = "the mean of all" if held[0] is uniform else "the greedy soup"
        return f"**Variants.** Try {which}; the other soup was not better than the best single one."
    return "**Variants.** Compare a soup with the best single one before you take it."


def _negation(chapter: Chapter) -> str:
    alone = chapter.numbers["negation_control_harm_share"]
    assert isinstance(alone, Estimate)
    if chapter.findings[1].estimate.verdict == "held":
        return f"**Negation.** The control suffered {alone.mean:.2f} times as much as the target."
    held = chapter.findings[2].estimate.verdict == "held"
    mend = " Add the task vector of what is to stay: that held here." if held else ""
    return (
        f"**Negation.** Measure what is to stay: it suffered {alone.mean:.2f} times as much as the"
        f" target.{mend}"
    )


def _many(chapter: Chapter) -> str:
    names = {"TIES": chapter.findings[1], "DARE": chapter.findings[2]}
    names["DARE with TIES"] = chapter.findings[3]
    better = [name for name, found in names.items() if found.estimate.verdict == "held"]
    worse = [name for name, found in names.items() if _opposite(found)]
    said = "**Method.** Task arithmetic with a tuned scale is the default. "
    if better:
        said += f"{_listed(better)} kept more here and {_is(better)} worth a trial beside it."
    if worse:
        said += (
            f" {_listed(worse)} kept less at equally tuned scales."
            if better
            else (f"{_listed(worse)} kept less here, at equally tuned scales.")
        )
    if not better and not worse:
        said += "Nothing else was better or worse beyond the error."
    return said


def _signs(chapter: Chapter) -> str:
    found = chapter.findings[1].estimate
    shares = [each for name, each in chapter.numbers.items() if name.startswith("sign_conflicts_")]
    few, many = shares[0], shares[-1]
    assert isinstance(few, Estimate)
    assert isinstance(many, Estimate)
    said = f"**Conflicts.** {few.mean:.0%} of the entries were in conflict with the fewest experts,"
    said += f" {many.mean:.0%} with the most. "
    if found.verdict == "held":
        return said + "Electing signs helped at equal length: with many conflicts, try TIES."
    if _opposite(chapter.findings[1]):
        return (
            said + "Electing signs did harm at equal length: conflicts alone do not ask for TIES."
        )
    return said + "Electing signs made no difference: conflicts alone do not ask for TIES."


def _lengths(chapter: Chapter) -> str:
    ratio = chapter.numbers["length_ratio"]
    assert isinstance(ratio, Estimate)
    short, both = chapter.findings
    said = f"**Lengths.** With one task vector {ratio.mean:.1f} times as long as the other, "
    if both.estimate.verdict == "held":
        return said + "weights by the inverse length were better: normalise."
    if _opposite(both):
        return (
            said
            + "weights by the inverse length were worse on the mean of both"
            + (", though better for the shorter one." if short.estimate.verdict == "held" else ".")
        )
    if short.estimate.verdict == "held":
        return said + (
            "weights by the inverse length helped the shorter one at the longer one's cost:"
            " normalise when both count alike."
        )
    return said + "weights by the inverse length made no difference."


def _groups(chapter: Chapter) -> str:
    if chapter.findings[0].estimate.verdict == "held":
        return "**Layer groups.** A scale for each group is worth a search after the single one."
    return (
        "**Layer groups.** One scale is enough to begin with: scales by group gained nothing sure."
    )


def _averages(chapter: Chapter) -> str:
    at_constant, more, _ = chapter.findings
    if at_constant.estimate.verdict == "held":
        after = " After a decay there is less to gain." if more.estimate.verdict == "held" else ""
        return f"**Checkpoints.** Average them while the learning rate is high.{after}"
    return "**Checkpoints.** Averages at a constant rate were not surely better here."


def _strangers(chapter: Chapter) -> str:
    strangers = chapter.numbers["barrier_other_base"]
    experts = chapter.numbers["barrier_same_base"]
    assert isinstance(strangers, Estimate)
    assert isinstance(experts, Estimate)
    return (
        f"**Barrier.** Between strangers the middle was {plain(strangers, 2)} bits per byte above"
        f" the mean of the ends, between experts of one base {experts.mean:+.3f} ±"
        f" {experts.error:.3f}. A middle clearly above its ends is a reason not to merge."
    )


_SAYINGS = {
    "scale": _scale,
    "many": _many,
    "signs": _signs,
    "lengths": _lengths,
    "groups": _groups,
    "strangers": _strangers,
    "negation": _negation,
    "soups": _soups,
    "averages": _averages,
}


def _opposite(finding: Finding) -> bool:
    return finding.estimate.verdict == "the opposite was seen"


def _listed(names: list[str]) -> str:
    return " and ".join((", ".join(names[:-1]), names[-1]) if len(names) > 1 else names)


def _is(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"
