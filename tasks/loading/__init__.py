"""Whether transformers loads a merged checkpoint, asked of itself in a child process.

Public: `check.check_loading`. `process` is the child's program. It imports `processes`.
"""
