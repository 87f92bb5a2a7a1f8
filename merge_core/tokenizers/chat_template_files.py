"""Chat templates: the formats that are known by name, and the one most models of a merge share."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from merge_core.files.bounded_json import read_json
from merge_core.recipes.chat_templates import AUTO, CHAT_TEMPLATES
from merge_core.tokenizers.prompting import read_prompting


def chat_template_for(choice: str, directories: Sequence[Path]) -> str | None:
    """The text of a recipe's `chat_template`.

    Args:
        directories: the merged checkpoints', of which `auto` takes the most common template, the
            first among equals. None where none has a template.
    """
    if choice != AUTO:
        return CHAT_TEMPLATES.get(choice, choice)
    found = Counter(
        template
        for directory in directories
        if (template := read_prompting(directory, {}).chat_template)
    )
    return found.most_common(1)[0][0] if found else None


def write_chat_template(template: str, directory: Path) -> None:
    """Make a template the one of a checkpoint, in every file of it that may hold one."""
    (directory / "chat_template.jinja").write_text(template, "utf-8")
    for name in ("tokenizer_config.json", "chat_template.json"):
        path = directory / name
        content = read_json(path) if path.exists() else {}
        if "chat_template" in content:
            content["chat_template"] = template
            path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
