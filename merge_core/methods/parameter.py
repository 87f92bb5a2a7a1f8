"""One parameter of a merge method: its kind, its bounds, and a value checked against them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from merge_core.errors import RecipeError, did_you_mean

Scalar = float | bool | str
_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")
_LONGEST_NUMBER = 64
_FLAGS = {"true": True, "false": False}

_DECIMAL_COMMA = re.compile(r"-?\d+,\d+")


@dataclass(frozen=True)
class Parameter:
    """One parameter of a method.

    kind: "number", "flag", "word" (one of the choices) or "choice" (a word, or true or false).
    `per_model` parameters may differ between models; the others are set once, at the top of the
    recipe. `default` None means that it must be given.
    """

    name: str
    help: str
    default: Scalar | None
    kind: str = "number"
    per_model: bool = False
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()

    def check(self, value: Any, where: str) -> Scalar:
        """`value` as this parameter's kind.

        Raises:
            RecipeError: wrong kind, not finite, out of bounds, not one of the choices.
        """
        if self.kind == "flag" or (self.kind == "choice" and isinstance(value, bool)):
            if not isinstance(value, bool):
                raise RecipeError(f"{self.name} must be true or false, not {value!r}", where=where)
            return value
        if self.kind in ("choice", "word"):
            if value not in self.choices:
                raise RecipeError(
                    f"{self.name} cannot be {value!r}; {did_you_mean(str(value), self.choices)}",
                    where=where,
                )
            return str(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            hint = ""
            if isinstance(value, str) and _DECIMAL_COMMA.fullmatch(value):
                hint = f"; write the decimal point: {value.replace(',', '.')}"
            raise RecipeError(f"{self.name} must be a number, not {value!r}{hint}", where=where)
        if not self.low <= value <= self.high or not math.isfinite(_float(value)):
            raise RecipeError(
                f"{self.name} must be {_range(self.low, self.high)}, not {value}", where=where
            )
        return float(value)

    def canonical(self, value: Any) -> Any:
        """A value in the form that recipes have it: a quoted number as a number, 1.0 as a flag.

        What cannot be read is left as it is, for `check` to refuse.
        """
        if self.kind in ("flag", "choice"):
            if isinstance(value, str):
                return _FLAGS.get(value.lower(), value)
            is_flag = type(value) in (int, float) and value in (0, 1)
            return bool(value) if is_flag else value
        if self.kind == "number" and isinstance(value, str):
            text = value.strip()
            if len(text) <= _LONGEST_NUMBER and _NUMBER.fullmatch(text):
                return int(text) if text.lstrip("+-").isdigit() else float(text)
        return value


def _float(value: float) -> float:
    """A number as float64; whole numbers beyond its range are infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _range(low: float, high: float) -> str:
    if math.isinf(low) and math.isinf(high):
        return "a finite number"
    if math.isinf(high):
        return f"at least {low:g}"
    if math.isinf(low):
        return f"at most {high:g}"
    return f"between {low:g} and {high:g}"
