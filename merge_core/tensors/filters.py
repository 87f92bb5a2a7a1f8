"""Filters: which tensors an entry of a recipe is about, by name or by kind.

An entry has at most one of the keys `filter` (part of the name, as in mergekit), `glob` (the whole
name with `*`, `?` and `[...]`), `regex` (found anywhere in the name) and `group` (attention, mlp,
...). An entry without one, or with `filter: "*"`, is about every tensor.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fnmatch import translate
from functools import lru_cache
from typing import Any, get_args

from merge_core.errors import RecipeError, did_you_mean, one_line
from merge_core.tensors.names import Group, group_of
from merge_core.tensors.regex_cost import most_steps

FILTER_KEYS = ("filter", "glob", "regex", "group")
GROUPS: tuple[str, ...] = get_args(Group)
_USUAL_LENGTH = 64
_MAX_STEPS = 1e9
MAX_PATTERN = 300
"""Longest pattern, in characters: no honest one is longer, and long ones can take forever."""


def check_filter(entry: Mapping[str, Any], where: str) -> None:
    """Check the filter of an entry; its other keys are not looked at.

    Raises:
        RecipeError: two filters, a pattern that is no text or no regular expression, an unknown
            group.
    """
    present = [key for key in FILTER_KEYS if key in entry]
    if len(present) > 1:
        raise RecipeError(
            f"an entry has one filter, not {' and '.join(present)}",
            where=where,
            mend="write two entries, or one regex that says both",
        )
    for key in present:
        place, pattern = f"{where}.{key}", entry[key]
        if key == "group":
            _check_groups(pattern, place)
        elif not (pattern is None and key == "filter"):
            _check_pattern(key, pattern, place)


def matches(entry: Mapping[str, Any], tensor: str) -> bool:
    """Whether a checked entry is about a tensor."""
    return bool(matcher(entry)(tensor))


def matcher(entry: Mapping[str, Any]) -> Callable[[str], object]:
    """What a checked entry makes of a tensor's name: something true where it is about it.

    For a filter that many names are compared with: its pattern is looked at once.
    """
    if "glob" in entry:
        return _compiled(translate(entry["glob"])).match
    if "regex" in entry:
        return _compiled(entry["regex"]).search
    if "group" in entry:
        groups = _names(entry["group"])
        return lambda tensor: group_of(tensor) in groups
    if is_total(entry):
        return lambda _: True
    return lambda tensor: entry["filter"] in tensor


def is_total(entry: Mapping[str, Any]) -> bool:
    """Whether an entry is about every tensor, as far as its filter says so plainly."""
    if entry.get("glob") == "*":
        return True
    return not any(key in entry for key in FILTER_KEYS[1:]) and entry.get("filter") in (None, "*")


def described(entry: Mapping[str, Any]) -> str:
    """An entry's filter in words: `filter 'mlp'`, `group norms, head`, `no filter`."""
    for key in FILTER_KEYS:
        if entry.get(key) is not None:
            value = entry[key]
            return f"group {', '.join(_names(value))}" if key == "group" else f"{key} '{value}'"
    return "no filter"


def _check_pattern(key: str, pattern: Any, where: str) -> None:
    if not isinstance(pattern, str) or not pattern:
        raise RecipeError(f"{key} must be a text, not {pattern!r}", where=where)
    if len(pattern) > MAX_PATTERN:
        raise RecipeError(f"{key} is longer than {MAX_PATTERN} characters", where=where)
    if key == "regex":
        if most_steps(pattern, _USUAL_LENGTH) > _MAX_STEPS:
            raise RecipeError(
                f"'{pattern}' can take for ever to match: it repeats a group, or too many parts",
                where=where,
                mend="write several entries, each with a simpler pattern",
            )
        try:
            _compiled(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise RecipeError(
                f"'{pattern}' is no regular expression: {one_line(error)}",
                where=where,
                mend="use glob for patterns with * and ?, filter for a part of the name",
            ) from None


def _check_groups(value: Any, where: str) -> None:
    groups = value if isinstance(value, list | tuple) else [value]
    if not groups:
        raise RecipeError("group is an empty list", where=where)
    for group in groups:
        if group not in GROUPS:
            raise RecipeError(
                f"there is no group {group!r}; {did_you_mean(str(group), GROUPS)}",
                where=where,
                mend=f"the groups are {', '.join(GROUPS)}",
            )


def _names(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)
