"""How long lineage takes beside MLflow's own list: `python -m benchmarks.lineage`.

The registry is made anew in a temporary directory by MLflow's own client, which takes minutes for
thousands of versions, and is timed only when it is done.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.lineage.contains import versions_that_contain
from tasks.lineage.html import lineage_html
from tasks.lineage.mermaid import lineage_mermaid
from tasks.lineage.text import render_lineage
from tasks.lineage.trace import lineage
from tasks.registry.client import open_registry
from tests.support.large_registries import deep_chain, digest_at, wide_registry
from tests.support.registrations import empty_registry, unsynced_sqlite

_MODELS = 25


def main() -> None:
    """Make a registry, then time what reads it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deep", type=int, default=1000, help="merges in a row")
    parser.add_argument("--wide", type=int, default=5000, help="versions, of 25 models")
    sizes = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, unsynced_sqlite():
        place = Path(scratch)
        registry = empty_registry(place / "mlflow", place / "template.db")
        _timed("made by MLflow's client: deep", lambda: deep_chain(registry, sizes.deep))
        _timed(
            "made by MLflow's client: wide", lambda: wide_registry(registry, sizes.wide, _MODELS)
        )
        _timed("MLflow's own list of versions", lambda: _listed(registry))
        deep = _timed(f"lineage, {sizes.deep:,} deep", lambda: lineage("models:/deep/1", registry))
        for draw in (render_lineage, lineage_mermaid, lineage_html):
            _timed(f"  {draw.__name__}", lambda draw=draw: draw(deep))
        _timed(
            f"lineage of one of {sizes.wide:,} versions",
            lambda: lineage("models:/wide-1/1", registry),
        )
        base = digest_at(0, "base")
        found = _timed("versions that contain", lambda: versions_that_contain(base, registry))
        print(f"{len(found.versions):,} versions contain the base")


def _timed(what: str, act: Callable[[], Any]) -> Any:
    started, used = time.monotonic(), time.process_time()
    result = act()
    seconds, busy = time.monotonic() - started, time.process_time() - used
    print(f"{what:<36}{seconds:8.2f} s  ({busy:.2f} s of the processor)", flush=True)
    return result


def _listed(registry: str) -> int:
    count, token = 0, None
    with open_registry(registry) as opened:
        while True:
            page = opened.client.search_model_versions(max_results=1000, page_token=token)
            count, token = count + len(page), page.token
            if not token:
                return count


if __name__ == "__main__":
    main()
