"""All results of a search in MLflow, which itself returns one page and is silent of the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


def every(search: Callable[..., Any], *arguments: Any, **options: Any) -> Iterator[Any]:
    """The results of a search, page by page as they are asked for.

    Args:
        search: a method of MLflow's client that takes `page_token` and returns a `PagedList`.
    """
    token = None
    while True:
        page = search(*arguments, **options, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
