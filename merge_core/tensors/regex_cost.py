"""How long a regular expression from a file can take to match a name, before it is tried.

Python's engine backtracks: `(a|a)(a|a)...` doubles its work with every group, `.*.*.*` multiplies
it by the length of the name each time. A bound from counts alone is enough to tell a pattern for
module names from an attack.
"""

from __future__ import annotations

import math
import re

_QUANTIFIED_GROUP = re.compile(r"\)\s*[*+{]")


def most_steps(pattern: str, length: int) -> float:
    """An upper estimate of the ways in which a pattern can be tried on a name of `length`.

    Infinite for a repeated group, whose ways are exponential in the length.
    """
    if _QUANTIFIED_GROUP.search(pattern):
        return math.inf
    repeats = sum(pattern.count(sign) for sign in "*+{")
    groups = pattern.count("(")
    optional = max(0, pattern.count("?") - pattern.count("(?"))
    branches = ((pattern.count("|") + groups + 1) / (groups + 1)) ** (groups + 1)
    return 2.0 ** min(optional, 1000) * branches * math.comb(length + repeats, repeats)
