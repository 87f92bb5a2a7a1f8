"""Every method's plan digest and bytes are those that were kept: no change moves them unnoticed.

A home finds its merges by plan digests, and a merge done again is compared with the first by its
bytes. `pinned_cases` says how the table is made anew, and when.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from merge_core.methods import METHODS
from tests.conformance.pinned_cases import DTYPES, TABLE, Bench, here, is_exact, recipes

KEPT = json.loads(TABLE.read_text())


@pytest.mark.parametrize("dtype", DTYPES)
def test_plans_and_bytes_are_the_kept_ones(dtype: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, dtype)
    differing = {}
    for name in recipes():
        kept, found = KEPT["merges"][f"{name}, {dtype}"], bench.digests(name)
        if not is_exact(name) and here() != KEPT["made on"]:
            kept, found = {"plan": kept["plan"]}, {"plan": found["plan"]}
        if found != kept:
            differing[name] = sorted(key for key in kept if found[key] != kept[key])
    assert not differing


def test_every_method_is_among_them() -> None:
    methods = {recipe["merge_method"] for recipe in recipes().values()}
    built_in = {name for name, method in METHODS.items() if type(method).__module__[:5] == "merge"}
    assert methods == built_in
    assert KEPT["merges"].keys() == {f"{name}, {dtype}" for name in recipes() for dtype in DTYPES}
