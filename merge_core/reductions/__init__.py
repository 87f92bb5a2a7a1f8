"""Sums with one fixed order of additions, so that a result has the same bits on every CPU and GPU,
with any number of threads.

Public: `sums.Sum`, `sums.add_up`, `constants`. It imports `jit` and `runtime`.
"""
