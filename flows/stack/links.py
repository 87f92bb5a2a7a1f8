"""The links that sign a browser in at the running stack's servers.

They hold the password: they are in a file that only its user reads, are shown at a terminal, and go
into no log.
"""

from __future__ import annotations

from pathlib import Path

from flows.servers.sign_in_page import link
from flows.terminal.console import Terminal, shown_path
from merge_core.files.private import write_private
from merge_core.homes.home import Home
from tasks.servers.login import Login, stack_login
from tasks.servers.stack_record import StackRecord


def write_links(home: Home, record: StackRecord, login: Login) -> None:
    """Keep the links for as long as the stack runs."""
    lines = [f"{name:<8}{address}\n" for name, address in _links(record, login).items()]
    write_private(links_file(home), "".join(lines))


def remove_links(home: Home) -> None:
    """The stack's servers are gone."""
    links_file(home).unlink(missing_ok=True)


def links_file(home: Home) -> Path:
    """Where the links are."""
    return home.stack / "links"


def show_links(terminal: Terminal, home: Home, record: StackRecord) -> None:
    """One click to open either server: to a person at a terminal, else where the links are."""
    if not terminal.watched:
        terminal.say(f"links that sign a browser in are in {shown_path(links_file(home))}")
        return
    for name, address in _links(record, stack_login(home)).items():
        terminal.say(f"open {name:<8}{address}")


def _links(record: StackRecord, login: Login) -> dict[str, str]:
    return {"Prefect": link(record.prefect, login), "MLflow": link(record.mlflow, login)}
