"""Where the forms are that start a merge: addresses of pages in Prefect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prefect.client.schemas.responses import DeploymentResponse

from flows.terminal.console import Terminal

TAG = "form"
"""Of deployments that people start by filling in their page."""
_LONGEST = "merge"
"""The form for any method, which comes last."""


def form_addresses(deployments: Iterable[DeploymentResponse], prefect: str) -> dict[str, str]:
    """The page of each form, by the form's name.

    Args:
        prefect: address of the server, `http://127.0.0.1:4200`.
    """
    forms = [each for each in deployments if TAG in each.tags]
    return {
        form.name: f"{prefect}/v2/deployments/deployment/{form.id}/run"
        for form in sorted(forms, key=lambda each: (each.name == _LONGEST, each.name))
    }


def show_forms(terminal: Terminal, addresses: Mapping[str, str]) -> None:
    """One line for each form."""
    for name, address in addresses.items():
        terminal.say(f"form {name:<16} {address}")
