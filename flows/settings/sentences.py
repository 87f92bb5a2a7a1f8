"""The sentences that a form in Prefect's UI answers a wrong value with.

Prefect checks a form by its JSON schema alone, and shows what its checker says at the field: a
pattern for a name, "should be non-empty" for a reference. A rule that is written as `if`, with a
`const` as its answer, says a sentence instead: "'a share between 0 and 1' was expected".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

Schema = dict[str, Any]


def expect(what: str, rule: Schema) -> Schema:
    """A schema that holds where `rule` does, and says "'{what}' was expected" where it does not."""
    return {"if": {"not": rule}, "then": {"const": what}}


def only(values: Sequence[str]) -> Schema:
    """A list to choose from."""
    return {"enum": list(values)}


def range_of(low: float, high: float) -> str:
    """Bounds in words."""
    if math.isinf(low) and math.isinf(high):
        return "any number"
    if math.isinf(high):
        return f"{low:g} or more"
    if math.isinf(low):
        return f"{high:g} or less"
    return f"between {low:g} and {high:g}"


def in_range(low: float, high: float, help: str = "") -> Schema:
    """Bounds that are told in words: "a share between 0 and 1"."""
    limits = {"minimum": low, "maximum": high}
    rule = {key: limit for key, limit in limits.items() if not math.isinf(limit)}
    kind = "a share" if help.lower().startswith("share") else "a number"
    words = range_of(low, high)
    joint = " " if words.startswith("between") else ", "
    return expect(f"{kind}{joint}{words}", rule) if rule else {}


def without_ends(low: float | None, high: float | None, schema: Schema) -> Schema:
    """A schema of `in_range` that excludes the bounds themselves which are given here."""
    if not schema:
        return schema
    rule, said = dict(schema["if"]["not"]), str(schema["then"]["const"])
    for end, key, other in (
        (low, "minimum", "exclusiveMinimum"),
        (high, "maximum", "exclusiveMaximum"),
    ):
        if end is not None:
            rule[other] = rule.pop(key)
            said += f", and not {end:g}"
    return expect(said, rule)
