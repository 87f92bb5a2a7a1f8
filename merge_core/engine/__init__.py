"""Runs a plan: whole-model passes first, then every tensor block by block, in a few threads.

Public: `run.run_plan`. It imports `kernels`, `output` and what is below.
"""
