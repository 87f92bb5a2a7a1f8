"""Whether an answer repeats itself to its end, as that of a model that cannot stop."""

from __future__ import annotations

_TIMES = 4
"""How often a piece has to come, one after the other, at the end of an answer."""
_SHORTEST = 40
"""Characters that the repetitions have together: a short answer may well say `no no no no`."""


def is_looping(answer: str) -> bool:
    """Whether an answer ends in repetitions of one piece.

    Example:
        >>> is_looping("The answer is 12. " + "So it is 12. " * 9)
        True
    """
    text = answer.rstrip()
    for period in range(1, len(text) // _TIMES + 1):
        times = max(_TIMES, -(-_SHORTEST // period))
        if times * period <= len(text) and text[-times * period :] == text[-period:] * times:
            return True
    return False
