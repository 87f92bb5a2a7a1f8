"""Methods on the spectrum of whole matrices, all in float64."""

from merge_core.methods.spectral.iso import IsoC, IsoCts
from merge_core.methods.spectral.knots import Knots
from merge_core.methods.spectral.star import Star
from merge_core.methods.spectral.tsv_m import TsvM
from merge_core.methods.spectral.wudi import Wudi

__all__ = ["IsoC", "IsoCts", "Knots", "Star", "TsvM", "Wudi"]
