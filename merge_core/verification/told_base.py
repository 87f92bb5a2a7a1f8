"""Which base an adapter says it was trained on, against the one that it is applied to."""

from __future__ import annotations

from merge_core.checkpoints.adapters.config import read_adapter_config
from merge_core.checkpoints.model_card import is_hub_id, names_checkpoint
from merge_core.findings import Finding, printable
from merge_core.verification.kinship import Subject


def other_base(subject: Subject) -> list[Finding]:
    """What is said of an adapter whose settings name another base.

    A warning where two names on the Hub differ. A name of a directory on the trainer's machine, or
    a base that is a directory here, shows nothing for sure: then it is information.
    """
    adapter = subject.source.adapter
    if adapter is None:
        return []
    named = read_adapter_config(adapter.directory).base_model
    base = subject.name.removesuffix(f"+{adapter.reference}")
    directory = subject.checkpoint.directory
    if not named or names_checkpoint(named, base, directory):
        return []
    if subject.checkpoint.config.get("_name_or_path") == named:
        return []
    doubtful = is_hub_id(named) and is_hub_id(base)
    return [
        Finding(
            severity="warning" if doubtful else "info",
            code="adapter-names-another-base",
            subject=subject.name,
            message=f"its adapter_config.json says that the adapter was trained on"
            f" {printable(named)}, and it is applied to {base}",
            mend=f"write {printable(named)}+{adapter.reference}, unless the two bases are the same"
            " weights"
            if doubtful
            else None,
            where="adapter_config.json: base_model_name_or_path",
        )
    ]
