"""Checkpoints of one training run: which are whole, which to average, and with what weights.

Everything here is about order and choice; the averages themselves are `linear` recipes.
Public: `find`, `select`, `schedules`, `path`, `records`.
"""
