"""Advice follows from the numbers, says how sure it is, and where its threshold is from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from merge_core.findings import Finding
from tasks.diagnosis.advice import Advice, advise
from tests.support.diagnosed import (
    curves_with,
    line_curve,
    report_of,
    scale_curve,
    weights_of,
)

GENERATOR = torch.Generator().manual_seed(7)
STEP = 0.01 * torch.randn(32, 32, generator=GENERATOR)
OTHER = 0.01 * torch.randn(32, 32, generator=GENERATOR)
LOW_RANK = 0.01 * torch.outer(torch.randn(32, generator=GENERATOR), torch.ones(32))
SPARSE = STEP * (STEP.abs() > STEP.abs().quantile(0.9))


def advised(directory: Path, **steps: torch.Tensor | float) -> dict[str, Advice]:
    found = advise(list(steps), report_of("base", list(steps)), weights_of(directory, steps), None)
    return {each.do: each for each in found}


@pytest.mark.parametrize(
    ("steps", "do", "sure", "because"),
    [
        (
            {"long": 4 * STEP, "short": OTHER},
            "Normalise: give long about 0.2[0-9] times the weight of short",
            "likely",
            r"is (3\.\d|4\.\d) times as long as that of short",
        ),
        ({"same": STEP, "none": 0.0 * STEP}, "Leave none out: it adds nothing", "sure", "the base"),
        (
            {"a": STEP + 0.1 * OTHER, "b": STEP - 0.1 * OTHER},
            "Average a and b, with weights that add up to 1",
            "likely",
            r"cosine \+0\.98",
        ),
        (
            {"a": STEP, "b": STEP + 0.1 * OTHER, "c": STEP - 0.1 * OTHER, "d": OTHER},
            "Average a, b and c, with weights that add up to 1",
            "likely",
            r"of 6 pairs of task vectors 3 have such a cosine, a and [bc] the most, \+0\.9\d",
        ),
        ({"a": 0.0 * STEP, "b": 0.0 * STEP}, "Do not merge: no model differs", "sure", "the base"),
        ({"a": STEP, "b": -0.9 * STEP}, "Try a and b with small weights", "likely", "cosine -1.00"),
        (
            {"a": STEP, "b": OTHER},
            "Try TIES, which lets signs be elected, beside the plain sum",
            "perhaps",
            r"opposite signs, and their sum loses (2[6-9]|3[0-2])(\.\d)? % of their magnitude",
        ),
        ({"a": SPARSE, "b": OTHER}, "Try density 0.2 for a", "perhaps", "largest fifth"),
        (
            {"a": LOW_RANK, "b": OTHER},
            "Try a method that merges directions .* for a,",
            "perhaps",
            r"effective rank is 3\.1\d % of the possible one",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_what_the_weights_say(
    tmp_path: Path, steps: dict[str, torch.Tensor], do: str, sure: str, because: str
) -> None:
    import re

    found = advised(tmp_path, **steps)
    [one] = [each for each in found.values() if re.match(do, each.do)]
    assert one.sure == sure
    assert re.search(because, one.because)
    assert one.source


def test_models_that_only_agree_and_are_as_long_get_the_plain_sum_and_nothing_else(
    tmp_path: Path,
) -> None:
    shared = torch.randn(32, 32, generator=torch.Generator().manual_seed(3))
    own = [torch.randn(32, 32, generator=torch.Generator().manual_seed(s)) for s in (4, 5)]
    first, second = (0.01 * (0.9 * shared + each) for each in own)
    found = advised(tmp_path, a=first, b=second)
    assert [each.do for each in found.values()] == [
        "Start with task arithmetic, weights of about 0.5, and search the weights"
    ]


def test_a_barrier_that_is_worse_than_the_base_forbids_and_comes_first(tmp_path: Path) -> None:
    weights = weights_of(tmp_path, {"a": STEP, "b": OTHER})
    report = report_of("base", ["a", "b"])
    found = advise(["a", "b"], report, weights, curves_with(line_curve(0.5, 0.3, -0.4)))
    assert found[0].do == "Do not merge a and b by adding weights"
    assert (found[0].sure, found[0].forbids) == ("sure", True)
    assert "0.5 units above the line between theirs, surely 0.3 or more" in found[0].because
    assert not [each for each in found if each.do.startswith("Start with")]


def test_a_certain_barrier_above_the_base_is_a_warning_and_a_doubtful_one_is_nothing() -> None:
    report = report_of("base", ["a", "b"])
    small, *_ = advise(["a", "b"], report, None, curves_with(line_curve(0.05, 0.02, 0.1)))
    assert small.forbids is False
    assert any(
        each.do.startswith("Expect less of a mean of a and b")
        for each in advise(["a", "b"], report, None, curves_with(line_curve(0.05, 0.02, 0.1)))
    )
    doubtful = advise(["a", "b"], report, None, curves_with(line_curve(0.05, -0.02, 0.1)))
    assert [each.do[:10] for each in doubtful] == ["Start with"]


@pytest.mark.parametrize(
    ("strength", "do"),
    [
        (1.5, "Lower the weight of a, which is 1.5, to about 0.5"),
        (0.7, None),
        (None, "Give a a weight below 1"),
    ],
)
def test_a_scale_beyond_the_basin_is_lowered(strength: float | None, do: str | None) -> None:
    changes = {0.0: 0.0, 0.5: 0.2, 1.0: 0.05, 1.5: -0.3}
    curves = curves_with(scale_curve(0, changes, (1.0, 1.5)))
    strengths = {} if strength is None else {0: strength}
    found = advise(["a"], report_of("base", ["a"]), None, curves, strengths)
    assert [each.do for each in found] == ([do] if do else [])
    if do:
        assert (found[0].sure, found[0].source[:13]) == ("sure", "100 documents")
        assert "0.5 is the best, and 1 is certainly worse" in found[0].because
        assert "left the basin" not in found[0].because, "at 1 it still is better than the base"


def test_what_verify_refuses_is_said_first() -> None:
    report = report_of("base", ["a", "b"])
    finding = Finding(
        severity="error",
        code="unrelated-weights",
        subject="a",
        message="its weights are a stranger's",
        mend="use a fine-tune of the base",
    )
    found = advise(["a", "b"], report.model_copy(update={"findings": (finding,)}), None, None)
    assert [(each.do, each.forbids) for each in found] == [
        ("Do not merge before this is mended: use a fine-tune of the base", True)
    ]
    assert found[0].source == "mergeflow verify, finding unrelated-weights"


def test_the_same_checkpoint_under_two_names_is_left_out(tmp_path: Path) -> None:
    names = ["a", "b", "again"]
    report = report_of("base", names)
    first, second, third = report.rows
    rows = (first, second, third.model_copy(update={"digest": first.digest}))
    same = report.model_copy(update={"rows": rows})
    weights = weights_of(tmp_path, {"a": STEP, "b": OTHER, "again": STEP})
    found = advise(names, same, weights, None)
    assert [each.do for each in found if each.sure == "sure"] == ["Leave again out: it is a again"]
    assert not any(each.do.startswith("Average") for each in found), "said once"
    assert any("weights of about 0.5" in each.do for each in found), "of the two that are left"
    without_base = same.model_copy(update={"base": None})
    told = advise(names, without_base, None, None)
    assert told[0].do == "Leave again out: it is a again"


def test_one_useful_model_is_no_sum(tmp_path: Path) -> None:
    weights = weights_of(tmp_path, {"a": STEP, "none": 0.0 * STEP})
    found = advise(["a", "none"], report_of("base", ["a", "none"]), weights, None)
    assert [each.do for each in found] == ["Leave none out: it adds nothing"]
