"""Fine-tunes of a tiny Llama with model cards, and what `verify` finds of them."""

from __future__ import annotations

from typing import Any

from safetensors.torch import load_file

from merge_core.findings import Finding
from merge_core.records import SourceCheckpoint
from merge_core.verification.verify import (
    CompatibilityReport,
)
from tests.support.tiny_llama import (
    fine_tuned,
    write_llama,
)

CARD = "---\nbase_model: {}\n---\n# A model\n"

UP = "model.layers.0.mlp.up_proj.weight"


def expert(base: SourceCheckpoint, name: str, seed: int = 1, **options: Any) -> SourceCheckpoint:
    """A fine-tune beside the base, with a model card that says so."""
    scale = options.pop("scale", 0.002)
    weights = fine_tuned(load_file(base.directory / "model.safetensors"), seed, scale)
    weights.update(options.pop("replaced", {}))
    for absent in options.pop("without", ()):
        del weights[absent]
    options.setdefault("card", CARD.format("base"))
    return write_llama(base.directory.parent / name, weights, **options)


def only(report: CompatibilityReport, code: str) -> Finding:
    """The one finding of a code; a test fails when there are more or none."""
    found = [finding for finding in report.findings if finding.code == code]
    assert len(found) == 1, [str(finding) for finding in report.findings]
    return found[0]


def codes(report: CompatibilityReport) -> set[str]:
    return {finding.code for finding in report.findings}
