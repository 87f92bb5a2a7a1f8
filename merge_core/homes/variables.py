"""Variables in paths of recipes, pipelines, suites and forms: three, whose values are places.

No other is replaced. A recipe may be a stranger's, and would read out secrets of the environment,
into messages, records and requests to the Hub. The text with the variable stays what a digest and a
lineage have.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from merge_core.errors import CheckpointError
from merge_core.files.written_path import written_path
from merge_core.homes.home import Home

_VARIABLES = re.compile(r"\$(?:\{(?P<braced>\w+)\}|(?P<bare>\w+))")


def expand_variables(text: str, home: Home | None = None) -> str:
    """A path with `$HOME` (the user's directory), `$MERGEFLOW_HOME` (the data directory) and
    `$MERGEFLOW_ZOO` (the example models in it) replaced; `${NAME}` too.

    Args:
        home: by default the one that is believed, where it is asked for.

    Raises:
        CheckpointError: any other variable.
        HomeError: the home is asked for, and is not believed.
    """

    def value(match: re.Match[str]) -> str:
        name = match["braced"] or match["bare"]
        if name == "HOME":
            return str(written_path("~"))
        if name == "MERGEFLOW_HOME":
            return str((home or Home.if_believed()).path)
        if name == "MERGEFLOW_ZOO":
            return os.environ.get("MERGEFLOW_ZOO") or str((home or Home.if_believed()).path / "zoo")
        raise CheckpointError(
            f"the variable {match[0]} is not replaced here: recipes and forms do not read the"
            " environment, which may hold secrets",
            where=text,
            mend="write the path itself; $HOME, $MERGEFLOW_HOME and $MERGEFLOW_ZOO are known",
        )

    return _VARIABLES.sub(value, text)


def place_of(text: str, home: Home | None = None) -> Path:
    """The path that a person wrote, variables and `~` replaced.

    Raises:
        CheckpointError: a variable that is not known.
    """
    return written_path(expand_variables(text, home))
