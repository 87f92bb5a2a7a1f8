"""The field that says which documents were drawn together."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.evaluation.clusters import check_cluster, cluster_of
from tasks.processes.model import Problem


def test_labels_are_texts_and_numbers_and_long_ones_are_digests() -> None:
    assert cluster_of("passage", {"passage": "a"}, "quiz", "") == "a"
    assert cluster_of("passage", {"passage": 7}, "quiz", "") == "7"
    long, other = ("x" * 1000, "x" * 1001)
    labels = {cluster_of("passage", {"passage": each}, "quiz", "") for each in (long, other)}
    assert {len(label) for label in labels} == {64}
    assert len(labels) == 2


@pytest.mark.parametrize("value", [None, "", [1], {"a": 1}, True])
def test_a_document_without_a_label_is_a_mistake_in_the_suite(value: Any) -> None:
    with pytest.raises(Problem, match="has no text and no number in its field 'passage'") as found:
        cluster_of("passage", {"passage": value}, "quiz", "tasks[0].cluster")
    assert found.value.message["place"] == "tasks[0].cluster"


def test_a_field_that_does_not_exist_is_told_with_the_nearest_one() -> None:
    check_cluster("passage", {"passage": "a"}, "quiz", "tasks[0].cluster")
    with pytest.raises(Problem, match="documents of task 'quiz' have no field 'pasage'") as found:
        check_cluster("pasage", {"passage": "a", "text": "b"}, "quiz", "tasks[0].cluster")
    assert "did you mean 'passage'" in str(found.value.message["mend"])
