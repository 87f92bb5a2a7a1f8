"""An adapter that lies beside full weights: which of the two is meant is the user's to say."""

from __future__ import annotations

from pathlib import Path

from merge_core.checkpoints.adapters.config import CONFIG_NAME, WEIGHTS_NAME
from merge_core.findings import Finding


def beside_weights(subject: str, directory: Path) -> list[Finding]:
    """A warning where a checkpoint's directory also holds an adapter, which is not applied.

    transformers looks for an adapter first, so it may load another model from that directory.
    """
    if not (directory / CONFIG_NAME).is_file():
        return []
    return [
        Finding(
            severity="warning",
            code="adapter-beside-weights",
            subject=subject,
            message=f"an adapter lies beside its full weights ({CONFIG_NAME}); the full weights are"
            " taken, without the adapter",
            mend="if the adapter is meant, write BASE+ADAPTER, with the adapter in a directory of"
            f" its own; if not, move {CONFIG_NAME} and {WEIGHTS_NAME} away",
            where=CONFIG_NAME,
        )
    ]
