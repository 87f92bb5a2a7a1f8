"""What commands that run a flow from a file begin with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from merge_core.errors import RecipeError

if TYPE_CHECKING:
    from flows.stack.prefect_session import PrefectSession
    from flows.terminal.console import Terminal
    from tasks.promotion.rule import PromotionRule


@contextmanager
def session_for(config: Path, terminal: Terminal) -> Iterator[PrefectSession]:
    """A Prefect session for a configuration file, which may still be starting: see its `ready`.

    Raises:
        RecipeError: the file cannot be read; said at once, before the slow imports.
    """
    from flows.stack.prefect_session import prefect_session
    from merge_core.files.strict_yaml import load_yaml
    from merge_core.homes.home import Home

    load_yaml(config)
    with prefect_session(Home.discover()) as prefect:
        if prefect.embedded:
            terminal.say("starting Prefect ...", style="dim")
        yield prefect


def check_approval(rule: PromotionRule, prefect: PrefectSession, config: Path) -> None:
    """Find out before any work that nobody could answer the question at its end.

    Raises:
        RecipeError: approval is asked for, and the server of this command has no page to open.
    """

    if rule.approve_within and prefect.embedded:
        raise RecipeError(
            "a person is to approve, and there is no Prefect to do it in",
            where=f"{config}: promote.approve_within",
            mend="start `mergeflow up` in another terminal (or set PREFECT_API_URL), then run this"
            " again; or take approve_within out",
        )
