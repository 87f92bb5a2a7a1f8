"""Checkpoints of one training run: found, tried in a greedy soup, announced while training.

Public: `trajectory.find_trajectory`, `greedy_soup`, `checkpoint_saved.CheckpointSaved`. It imports
`sources` and `promotion`.
"""
