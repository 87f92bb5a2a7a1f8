"""Settings of a config after layers were stacked: every place, every list, every rule by number.

Public: the names below. `rules` says what a setting means layer by layer.
"""

from __future__ import annotations

from merge_core.configs.stacking.checks import check_stack
from merge_core.configs.stacking.places import extra_blocks, ordinary_layers, side_of
from merge_core.configs.stacking.restack import Stack, stacked_config

__all__ = ["Stack", "check_stack", "extra_blocks", "ordinary_layers", "side_of", "stacked_config"]
