"""Which base a checkpoint says it was trained from: `base_model` in its model card's front matter.

A claim, not a proof; `merge_core.verification.ancestry` measures.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from merge_core.errors import CheckpointError
from merge_core.files.untrusted import read_beginning
from merge_core.files.written_path import written_path
from merge_core.findings import printable

_MAX_CARD_BYTES = 1 << 18


def declared_bases(directory: Path) -> tuple[str, ...]:
    """The `base_model` entries of README.md, empty when there are none or it cannot be read."""
    try:
        text = read_beginning(directory / "README.md", _MAX_CARD_BYTES).decode("utf-8", "replace")
    except CheckpointError:
        return ()
    lines = text.replace("\r\n", "\n").split("\n")
    if lines[0].strip() != "---" or "---" not in lines[1:]:
        return ()
    front = "\n".join(lines[1 : lines.index("---", 1)])
    try:
        # Nodes only: building the values of a stranger's YAML can take exponential time.
        root = yaml.compose(front, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        return ()
    if not isinstance(root, yaml.MappingNode):
        return ()
    for key, value in root.value:
        if isinstance(key, yaml.ScalarNode) and key.value == "base_model":
            nodes = value.value if isinstance(value, yaml.SequenceNode) else [value]
            names = [node.value.strip() for node in nodes if isinstance(node, yaml.ScalarNode)]
            return tuple(printable(name) for name in names if name)
    return ()


def names_checkpoint(declared: str, reference: str, directory: Path) -> bool:
    """Whether a declared base can be this checkpoint, going by names alone.

    `org/name` equals the reference without revision, the Hub cache's folder of that name, or a
    directory that is called `name`.
    """
    plain = declared.split("@")[0].rstrip("/").lower()
    if plain == reference.split("@")[0].rstrip("/").lower():
        return True
    if "models--" + plain.replace("/", "--") in (part.lower() for part in directory.parts):
        return True
    return not is_hub_id(reference) and plain.split("/")[-1] == directory.name.lower()


def is_hub_id(reference: str) -> bool:
    """Whether a reference is written like a Hub repository: `name` or `org/name`, no path."""
    plain = reference.split("@")[0]
    is_path = written_path(plain).exists() or plain.startswith((".", "/", "~"))
    return not is_path and plain.count("/") <= 1 and not plain.startswith("models:")
