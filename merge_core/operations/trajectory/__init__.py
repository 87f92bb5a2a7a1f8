"""Checkpoints of one training run: which are there and whole, which to average, and with what
weights. Everything here is about order and choice; the averages themselves are `linear` recipes.
"""
