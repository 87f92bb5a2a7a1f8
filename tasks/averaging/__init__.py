"""Checkpoints of one training run: found, and announced while training.

Public: `trajectory.find_trajectory`, `checkpoint_saved.CheckpointSaved`. It imports
`sources` and `promotion`.
"""
