"""What a person is told when a registration fails: the verdict is made, and the merge is there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from merge_core.errors import MergeflowError
from merge_core.records import CheckpointManifest
from merge_core.text.plain import plain_log
from tasks.promotion.headline import headline
from tasks.records import Decision
from tasks.roles import Roles

_log = plain_log("mergeflow")


@contextlib.contextmanager
def telling_what_is_done(
    manifest: CheckpointManifest, decision: Decision, roles: Roles
) -> Iterator[None]:
    """Add verdict and place of the merge to whatever ends the block.

    Raises:
        MergeflowError: as the block raises it, with two lines more.
    """
    said = headline(decision, roles.the_candidate, roles.the_baseline)
    done = (
        f"decided before that: {said}",
        f"the merged checkpoint is in {manifest.path}; the same run again registers it where this"
        " one stopped, and merges and evaluates nothing again",
    )
    try:
        yield
    except MergeflowError as error:
        details = (*error.details, *done)
        kind = type(error)
        raise kind(error.what, where=error.where, mend=error.mend, details=details) from error
    except Exception:
        for line in done:
            _log.warning("warning: it could not be registered; %s", line)
        raise
