"""Adapters as results: several merged into one, one extracted from a fine-tune.

Public: `merge`, `extract`. Reading an adapter is the business of `checkpoints.adapters`.
"""
