"""How many tokens a model's config says that it takes."""

from __future__ import annotations

from typing import Any

_NAMES = ("n_positions", "max_position_embeddings", "n_ctx")


def context_of(config: dict[str, Any]) -> int | None:
    """The context in tokens, as lm-eval reads it; None where the config does not say."""
    inner = config.get("text_config")
    text = inner if isinstance(inner, dict) else config
    known = (text[name] for name in _NAMES if isinstance(text.get(name), int))
    return next(known, None)
