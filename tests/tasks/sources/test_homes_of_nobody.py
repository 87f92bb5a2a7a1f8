"""`~NAME` of a user who does not exist, wherever a file or a directory is named."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from merge_core.checkpoints.model_card import is_hub_id
from merge_core.errors import MergeflowError
from merge_core.recipes.parts import Calibration
from tasks.calibration.samples import data_file
from tasks.evaluation.suite import load_suite
from tasks.sources.references import parse_reference

NOBODYS = "~nobody-has-this-name/x"


@pytest.mark.parametrize(
    "read",
    [
        lambda: parse_reference(NOBODYS),
        lambda: parse_reference(f"{NOBODYS}+{NOBODYS}"),
        lambda: load_suite(NOBODYS),
        lambda: data_file(Calibration(data=NOBODYS), None),
    ],
    ids=["reference", "adapter", "suite", "calibration"],
)
def test_a_home_of_nobody_is_a_path_where_nothing_is(read: Callable[[], object]) -> None:
    with pytest.raises(MergeflowError, match="~nobody-has-this-name"):
        read()
    assert not is_hub_id(NOBODYS)
