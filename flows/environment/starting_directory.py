"""Where relative paths in a deployment's parameters start.

A worker starts runs in an empty directory of its own, where Prefect can import the flows that are
installed and nothing else. Only then does a run go to the user's directory.
"""

from __future__ import annotations

import os

from merge_core.errors import MergeflowError

VARIABLE = "MERGEFLOW_DIRECTORY"
"""Names the directory, in the environment that a deployment gives to its runs."""


def enter() -> None:
    """Go there; stay, in a process that no deployment started.

    Raises:
        MergeflowError: it is not there any more.
    """
    directory = os.environ.get(VARIABLE)
    if not directory:
        return
    try:
        os.chdir(directory)
    except OSError as error:
        raise MergeflowError(
            f"relative paths start here, and it cannot be entered: {error.strerror}",
            where=directory,
            mend="call `mergeflow up` in a directory that exists, or make the deployments again",
        ) from None
