"""Whether the checkpoints of a recipe belong together, told before anything is merged.

Public: `verify.verify`, `verify.raise_for_errors`, `headers.preflight`. The headers alone tell
most; `ancestry` and `non_finite` read weights. It imports `tokenizers` and what is below.
"""
