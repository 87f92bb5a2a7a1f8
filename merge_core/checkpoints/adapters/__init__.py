"""LoRA adapters in PEFT's format: read strictly, applied as weights stream, merged, extracted.

Public: the names below.
"""

from __future__ import annotations

from merge_core.checkpoints.adapters.apply import adapted
from merge_core.checkpoints.adapters.config import AdapterConfig
from merge_core.checkpoints.adapters.files import Adapter, LoraPair, open_adapter

__all__ = ["Adapter", "AdapterConfig", "LoraPair", "adapted", "open_adapter"]
