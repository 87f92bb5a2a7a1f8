"""Deep and wide ancestries: drawn in every form, in seconds. `python -m benchmarks.lineage` has the
sizes that docs/lineage.md speaks of."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import TypeVar

import pytest

from flows.steps.lineage_page import lineage_page
from tasks.lineage.contains import versions_that_contain
from tasks.lineage.graph import Lineage, LineageInput, LineageMerge, LineageNode
from tasks.lineage.html import lineage_html
from tasks.lineage.mermaid import lineage_mermaid
from tasks.lineage.text import render_lineage
from tasks.lineage.trace import lineage
from tasks.registry.client import open_registry
from tasks.registry.pages import every
from tests.support.large_registries import deep_chain, digest_at, wide_registry

_DEEP, _WIDE = 1000, 5000
_MAKING = 110.0
"""Seconds for making the versions; a machine that has much else to do makes fewer."""
T = TypeVar("T")


def chain(depth: int) -> Lineage:
    """A chain of merges as values."""
    nodes = []
    for index in range(depth, -1, -1):
        digest = digest_at(index)
        merge = LineageMerge(
            run_id=f"run-{index}",
            method="linear",
            recipe_digest="r",
            plan_digest="p",
            object_id="o",
            verdict="promoted",
        )
        used = LineageInput(digest=digest_at(index - 1), role="model", reference=f"m{index - 1}")
        made = {"merge": merge, "inputs": (used,)} if index else {}
        nodes.append(LineageNode(digest=digest, reference=f"m{index}", **made))
    return Lineage(
        model_uri="models:/deep/1",
        tracking_uri="sqlite:////x.db",
        name="deep",
        version="1",
        aliases=(),
        root=digest_at(depth),
        nodes=tuple(nodes),
    )


def test_a_thousand_merges_in_a_row_are_drawn_in_every_form() -> None:
    deep = chain(_DEEP)
    tree = render_lineage(deep)
    assert all(f"digest {digest_at(index)}" in tree for index in range(_DEEP + 1))
    assert max(map(len, tree.splitlines())) < 200, "deep levels begin anew at the left"
    assert tree.count("(its ancestry continues below)") == _DEEP // 16
    assert lineage_mermaid(deep).count("-->") == _DEEP
    page = lineage_html(deep)
    assert set(re.findall(r'href="#(\w+)"', page)) <= set(re.findall(r'id="(\w+)"', page))
    assert Lineage.model_validate(json.loads(deep.model_dump_json())) == deep
    assert deep.levels()[digest_at(0)] == _DEEP


def test_a_page_of_a_run_shows_the_beginning_of_what_is_too_large_for_it() -> None:
    page = lineage_page(chain(_DEEP))
    assert "mermaid" not in page
    assert "1,001 checkpoints: too many to draw here" in page
    assert len(page) < 60_000
    assert "```mermaid" in lineage_page(chain(20))


def test_a_page_of_html_asks_nobody_and_runs_nothing() -> None:
    page = lineage_html(chain(3))
    assert "default-src 'none'" in page
    assert not re.search(r"<script|src=|href=\"(?!#)|url\(", page)


@pytest.mark.slow
def test_a_thousand_merges_in_a_row_are_found_within_ten_seconds(registry: str) -> None:
    deep_chain(registry, _DEEP)
    started = time.monotonic()
    deep = lineage("models:/deep/1", registry)
    drawn = [render_lineage(deep), lineage_html(deep), lineage_mermaid(deep)]
    assert time.monotonic() - started < 10
    assert len(deep.nodes) == _DEEP + 2
    assert deep.levels()[digest_at(0)] == _DEEP
    assert all(digest_at(0)[:12] in text for text in drawn)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_five_thousand_versions_cost_little_more_than_their_list(
    registry: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = wide_registry(registry, _WIDE, models=25, seconds=_MAKING)
    with open_registry(registry, writing=True) as opened:
        opened.client.set_registered_model_alias("wide-1", "champion", "2")

    def listed() -> int:
        with open_registry(registry) as opened:
            return len(list(every(opened.client.search_model_versions, max_results=1000)))

    count, listing, _ = timed(listed)
    contained = timed(lambda: versions_that_contain(digest_at(0, "base"), registry))
    traced = timed(lambda: lineage("models:/wide-1/2", registry))
    with capsys.disabled():
        print(
            f"\n{made:,} versions; seconds of the processor, and of the clock: MLflow's own list"
            f" {listing:.1f}, `lineage --contains` {contained[1]:.1f} ({contained[2]:.1f}),"
            f" `lineage` {traced[1]:.1f} ({traced[2]:.1f})"
        )
    assert count == len(contained[0].versions) == made > 100
    held = [each.model_uri for each in contained[0].versions if each.aliases == ("champion",)]
    assert held == ["models:/wide-1/2"]
    assert len(traced[0].nodes) == 3
    assert max(contained[1], traced[1]) < listing + 5


def timed(act: Callable[[], T]) -> tuple[T, float, float]:
    """What comes of it, with the seconds of the processor and of the clock: on a machine with much
    else to do, those of the clock say little."""
    busy, started = time.process_time(), time.monotonic()
    result = act()
    return result, time.process_time() - busy, time.monotonic() - started
