"""What a broken rule of a file's model means, in words: what to write instead.

The library that checks has sentences of its own, which speak of types, validators and inputs. None
of them reaches a user: each kind of error has its sentence here, and any other kind a plain one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from merge_core.errors import did_you_mean
from merge_core.findings import printable

_LONGEST = 60
_MUST_BE = {
    "string": "a text",
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "decimal": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "set": "a list",
    "frozen": "a list",
    "iterable": "a list",
    "dict": "a mapping of keys to values",
    "mapping": "a mapping of keys to values",
    "model": "a mapping of keys to values",
    "dataclass": "a mapping of keys to values",
    "time": "a length of time, as 90s, 30m or 8h",
    "timedelta": "a length of time, as 90s, 30m or 8h",
    "datetime": "a date and a time, as 2026-01-31T18:00",
    "date": "a date, as 2026-01-31",
    "url": "an address, as http://127.0.0.1:4200",
    "path": "a path",
    "none": "left out",
}
"""By the first word of an error's kind, as in `int_parsing` or `list_type`."""
_BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
    "multiple_of": ("multiple_of", "a multiple of"),
}
_LENGTHS = {
    "too_short": ("min_length", "at least", "entries"),
    "too_long": ("max_length", "at most", "entries"),
    "string_too_short": ("min_length", "at least", "characters"),
    "string_too_long": ("max_length", "at most", "characters"),
}
_NAME = "a name of letters, digits, dots, dashes and underscores, with a letter or digit first"
PATTERNS = {
    r"^[A-Za-z0-9][A-Za-z0-9._-]*$": _NAME,
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$": f"{_NAME}, of 80 at most,",
    r"^(\d{1,6}(\.\d{1,3})?[smhd])?$": "a length of time, as 90s, 30m or 8h,",
    r"^(local|(tcp|tls|ucx|wss?)://.+)$": "`local`, or a scheduler's address as tcp://HOST:8786,",
    r"^(auto|cpu|cuda(:[0-9]+)?)$": "auto, cpu, cuda or cuda:N",
    r"^[^/]+$": "a name without a slash",
    r"\S": "a text",
}
"""What a field's pattern asks for."""


def rule_in_words(item: Mapping[str, Any]) -> str:
    """One error of a validation as a sentence without its place.

    Args:
        item: of pydantic's `ValidationError.errors()`.
    """
    kind, context, given = str(item["type"]), item.get("ctx", {}), item.get("input")
    if kind in ("value_error", "assertion_error"):
        return str(context["error"])
    if kind == "missing":
        return "this key is required"
    if kind in ("literal_error", "enum"):
        known = [word.strip("'") for word in _choices(str(context["expected"]))]
        return f"{_shown(given, quoted=True)} is not known here; {_among(given, known)}"
    if kind == "union_tag_invalid":
        known = [word.strip("'") for word in _choices(str(context.get("expected_tags", "")))]
        tag = context.get("tag")
        if tag in (None, "None"):
            return f"the key that says its kind is required in it; {_among(None, known)}"
        return f"{_shown(tag, quoted=True)} is not known here; {_among(tag, known)}"
    if kind == "union_tag_not_found":
        return "the key that says its kind is required in it"
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"this must be {words} {context[key]}, not {_shown(given)}"
    if kind in _LENGTHS:
        key, words, what = _LENGTHS[kind]
        if context[key] == 1 and words == "at least":
            return "this must not be empty"
        return f"this must have {words} {context[key]} {what}"
    if kind == "string_pattern_mismatch":
        words = PATTERNS.get(context["pattern"], "another text")
        return f"{_shown(given, quoted=True)} cannot be written here: {words} is wanted"
    if kind == "int_from_float":
        return f"this must be a whole number, not {_shown(given)}"
    wanted = _MUST_BE.get(kind.partition("_")[0])
    if wanted is None:
        return f"this value does not fit here: {_shown(given)}"
    return f"this must be {wanted}, not {_shown(given)}"


def _choices(expected: str) -> list[str]:
    return expected.replace(" or ", ", ").split(", ")


def _among(given: object, known: list[str]) -> str:
    if isinstance(given, str):
        return did_you_mean(given, known)
    return f"known here: {', '.join(known)}"


def _shown(given: object, *, quoted: bool = False) -> str:
    """The value that was given. A text is shown only where it is one of several known words: any
    other may be a secret."""
    if given is None:
        return "nothing"
    if isinstance(given, bool):
        return "true" if given else "false"
    if isinstance(given, int | float):
        return printable(given, _LONGEST)
    if isinstance(given, str):
        return f"'{printable(given, _LONGEST)}'" if quoted else "a text"
    if isinstance(given, Mapping):
        return "a mapping"
    return (
        "a list" if isinstance(given, list | tuple | set | frozenset) else "another kind of value"
    )
