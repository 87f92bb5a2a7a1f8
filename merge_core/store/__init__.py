"""Finished checkpoints in a home's store: found by content, vouched for, taken away with care.

Public: `objects`, `vouching.confirm`, `quarantine`. It imports `output`, `homes` and what is below.
"""
