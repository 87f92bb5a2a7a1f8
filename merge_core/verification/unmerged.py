"""Full weights with the factors of an adapter among them, which nobody added to the weights."""

from __future__ import annotations

import re

from merge_core.configs.sizes import Headers
from merge_core.findings import Finding, counted, some

_FACTOR = re.compile(
    r"\.(lora_[AB](\.default)?\.weight|lora_embedding_[AB](\.default)?"
    r"|lora_magnitude_vector(\.default)?(\.weight)?)$"
)
"""As PEFT names them. Classes that have factors of their own give them names (`lora_A.vision`)."""


def unmerged_findings(name: str, headers: Headers) -> list[Finding]:
    """An error for a checkpoint that was saved with an adapter still apart.

    The mean of two products is not the product of the means, and no class loads such names.
    """
    factors = [tensor for tensor in headers if _FACTOR.search(tensor)]
    if not factors:
        return []
    return [
        Finding(
            severity="error",
            code="adapter-unmerged",
            subject=name,
            message=f"{counted(len(factors), 'factor')} of a LoRA among its weights, not added to"
            f" them: {some(factors)}",
            mend="where it was trained, save it merged: model.merge_and_unload()"
            ".save_pretrained(DIR); or save the adapter alone (model.save_pretrained(ADAPTER) of"
            " PEFT's model), and name BASE+ADAPTER",
            where=factors[0],
        )
    ]
