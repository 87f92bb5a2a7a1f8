"""A value and a weight for each document, for sound and for broken models."""

from __future__ import annotations

import math

import pytest

from tasks.evaluation.document_values import UnusableMetricError, document_value, metric_scale
from tasks.records import WORST_BITS

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("metric", "result", "expected"),
    [
        ("bits_per_byte", (-7 * math.log(2), 3), (7.0, 3.0)),
        ("word_perplexity", (-12 * math.log(2), 4), (12.0, 4.0)),
        ("byte_perplexity", (0.0, 4), (0.0, 4.0)),
        ("bits_per_byte", (NAN, 3), (3 * WORST_BITS, 3.0)),
        ("bits_per_byte", (-INF, 3), (3 * WORST_BITS, 3.0)),
        ("bits_per_byte", (INF, 3), (3 * WORST_BITS, 3.0)),
        ("bits_per_byte", (-1e9, 3), (3 * WORST_BITS, 3.0)),
        ("bits_per_byte", (NAN, 0), (0.0, 0.0)),
        ("perplexity", -3 * math.log(2), (3.0, 1.0)),
        ("perplexity", NAN, (WORST_BITS, 1.0)),
    ],
)
def test_likelihoods_become_bits_capped_at_the_worst(metric, result, expected):
    value = document_value(metric, False, {metric: result})
    assert (value.value, value.weight) == pytest.approx(expected)
    likelihood = result[0] if isinstance(result, tuple) else result
    assert value.finite == math.isfinite(likelihood)


@pytest.mark.parametrize(
    ("result", "answers", "expected", "finite"),
    [
        (1.0, [(-1.0, False), (-2.0, False)], 1.0, True),
        (0.0, [(-1.0, False), (-2.0, False)], 0.0, True),
        (True, ["some text"], 1.0, True),
        (1.0, [(NAN, False), (NAN, False)], 0.0, False),
        (1.0, [(-1.0, False), (-INF, False)], 0.0, False),
        (NAN, ["some text"], 0.0, False),
    ],
)
def test_an_answer_chosen_by_likelihoods_that_are_not_numbers_is_wrong(
    result, answers, expected, finite
):
    sample = {"acc": result, "filtered_resps": answers}
    assert document_value("acc", True, sample) == (expected, 1.0, finite)


def test_a_broken_document_is_the_worst_where_lower_is_better():
    assert document_value("error_rate", False, {"error_rate": NAN}) == (WORST_BITS, 1.0, False)


@pytest.mark.parametrize("result", [(1, 0), [0.5, 0.5], "text", None])
def test_a_metric_without_one_number_a_document_is_refused(result):
    with pytest.raises(UnusableMetricError, match="not one number for each document"):
        document_value("f1", True, {"f1": result})


def test_perplexities_are_powers_of_two_of_their_bits():
    assert metric_scale("word_perplexity") == metric_scale("perplexity") == "power_of_two"
    assert metric_scale("bits_per_byte") == metric_scale("acc") == "ratio"
    assert math.isfinite(2.0**WORST_BITS)
