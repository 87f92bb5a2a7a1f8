"""The files that decide how a prompt is written and where an answer ends: template, bos, eos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge_core.files.bounded_json import read_json
from merge_core.files.untrusted import read_beginning
from merge_core.findings import Finding, some

_MAX_TEMPLATE_BYTES = 1 << 22


@dataclass(frozen=True)
class Prompting:
    """How one checkpoint is prompted."""

    chat_template: str | None
    ids: dict[str, tuple[int, ...]]
    """Token ids by kind (`bos`, `eos`), as generation_config.json or else config.json has them."""
    texts: dict[str, str]
    """Tokens by kind as tokenizer_config.json has them."""


def read_prompting(directory: Path, config: Mapping[str, Any]) -> Prompting:
    """Chat template and special tokens of a checkpoint.

    Raises:
        CheckpointError: one of the files is not what it should be.
    """
    generation = _optional_json(directory / "generation_config.json")
    tokenizer = _optional_json(directory / "tokenizer_config.json")
    special = _optional_json(directory / "special_tokens_map.json")
    ids, texts = {}, {}
    for kind in ("bos", "eos"):
        value = generation.get(f"{kind}_token_id")
        value = config.get(f"{kind}_token_id") if value is None else value
        values = value if isinstance(value, list) else [value]
        if all(type(item) is int for item in values) and values:
            ids[kind] = tuple(sorted(values))
        token = tokenizer.get(f"{kind}_token", special.get(f"{kind}_token"))
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str):
            texts[kind] = text
    return Prompting(_chat_template(directory, tokenizer), ids, texts)


def compare_prompting(
    base_name: str, base: Prompting, name: str, model: Prompting
) -> list[Finding]:
    """Warnings where a model is prompted or stopped otherwise than the base."""
    return [
        *_template_findings(base_name, base, name, model),
        *(
            finding
            for kind in ("eos", "bos")
            for finding in _special_findings(kind, base_name, base, name, model)
        ),
    ]


def _template_findings(
    base_name: str, base: Prompting, name: str, model: Prompting
) -> list[Finding]:
    if base.chat_template == model.chat_template:
        return []
    if model.chat_template is None:
        return [
            Finding(
                severity="info",
                code="chat-template-missing",
                subject=name,
                message=f"it has no chat template, {base_name} has one; the merge keeps that one",
            )
        ]
    difference = (
        f"differs from that of {base_name}" if base.chat_template else f"is missing in {base_name}"
    )
    return [
        Finding(
            severity="warning",
            code="chat-template-differs",
            subject=name,
            message=f"its chat template {difference}, so it was trained on prompts of another form",
            mend="the merged model takes the base's template; if chats matter, name another one as"
            " chat_template in the recipe, and evaluate with the template you will serve",
            where="chat_template",
        )
    ]


def _special_findings(
    kind: str, base_name: str, base: Prompting, name: str, model: Prompting
) -> list[Finding]:
    differences = []
    ours, theirs = model.ids.get(kind), base.ids.get(kind)
    if ours is not None and theirs is not None and ours != theirs:
        differences.append(f"id {some(ours, 8)} instead of {some(theirs, 8)}")
    text, base_text = model.texts.get(kind), base.texts.get(kind)
    if text is not None and base_text is not None and text != base_text:
        differences.append(f"{text!r} instead of {base_text!r}")
    if not differences:
        return []
    effect = "may not stop where it should" if kind == "eos" else "may start from the wrong token"
    return [
        Finding(
            severity="warning",
            code=f"{kind}-differs",
            subject=name,
            message=f"its {kind} token is {' and '.join(differences)} as in {base_name}; the merged"
            f" model {effect}",
            mend=f"the merge keeps the base's {kind} token; check generation_config.json of the"
            " result, and add this model's token there if its answers need it",
            where=f"{kind}_token",
        )
    ]


def _chat_template(directory: Path, tokenizer_config: dict[str, Any]) -> str | None:
    path = directory / "chat_template.jinja"
    if path.exists():
        return read_beginning(path, _MAX_TEMPLATE_BYTES).decode("utf-8", "replace").strip()
    value = _optional_json(directory / "chat_template.json").get("chat_template")
    value = tokenizer_config.get("chat_template") if value is None else value
    if isinstance(value, list):
        named = [item for item in value if isinstance(item, dict)]
        default = [item.get("template") for item in named if item.get("name") == "default"]
        value = default[-1] if default else None
    return value.strip() if isinstance(value, str) else None


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}
