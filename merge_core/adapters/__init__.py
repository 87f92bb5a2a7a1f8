"""LoRA adapters in PEFT's format: read strictly, applied as weights stream, merged, extracted."""

from __future__ import annotations

from merge_core.adapters.config import AdapterConfig
from merge_core.adapters.files import Adapter, LoraPair, open_adapter
from merge_core.adapters.view import adapted

__all__ = ["Adapter", "AdapterConfig", "LoraPair", "adapted", "open_adapter"]
