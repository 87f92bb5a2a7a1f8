"""A search in MLflow returns one page: what stands on the others is found too."""

from __future__ import annotations

from tasks.registry.client import ensure_experiment, mergeflow_experiments, open_registry
from tasks.registry.pages import every

_DEFAULT_PAGE = 100
"""Registered models that MLflow returns when nothing is said of their number."""


def test_what_stands_on_later_pages_is_found(registry: str) -> None:
    with open_registry(registry, writing=True) as opened:
        names = [f"model-{number:03}" for number in range(_DEFAULT_PAGE + 3)]
        for name in names:
            opened.client.create_registered_model(name)
        assert len(opened.client.search_registered_models()) == _DEFAULT_PAGE
        found = every(opened.client.search_registered_models)
        assert sorted(model.name for model in found) == names
        few = every(opened.client.search_registered_models, "name LIKE 'model-00%'", 4)
        assert len(list(few)) == 10


def test_nothing_is_found_in_an_empty_registry(registry: str) -> None:
    with open_registry(registry, writing=True) as opened:
        assert list(every(opened.client.search_registered_models)) == []
        assert mergeflow_experiments(opened) == []
        made = ensure_experiment(opened, "merges")
        assert mergeflow_experiments(opened) == [made]
