"""The chat templates that a recipe may name, and the check of what it says."""

from __future__ import annotations

from pathlib import Path

from merge_core.errors import RecipeError, did_you_mean

AUTO = "auto"
CHAT_TEMPLATES = {
    # A line break of such a file is no part of the template.
    path.stem: "".join(path.read_text("utf-8").splitlines())
    for path in sorted(Path(__file__).with_name("chat_templates").glob("*.jinja"))
}
"""Templates by name: the conversation formats that these families of models publish."""


def check_chat_template(choice: str) -> None:
    """Refuse a choice that is neither `auto`, nor a known name, nor a template.

    Raises:
        RecipeError: with the names that are known.
    """
    if choice in (AUTO, *CHAT_TEMPLATES) or "{{" in choice or "{%" in choice:
        return
    raise RecipeError(
        f"'{choice[:80]}' is no template and no name of one;"
        f" {did_you_mean(choice, [AUTO, *CHAT_TEMPLATES])}",
        where="chat_template",
    )
