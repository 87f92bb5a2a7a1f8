"""The registry of merge methods: a method is one class, registered here once."""

from __future__ import annotations

from merge_core.errors import RecipeError, did_you_mean
from merge_core.methods.arcee_fusion import ArceeFusion
from merge_core.methods.averaging import Linear, Passthrough
from merge_core.methods.base import Method
from merge_core.methods.calibrated import Fisher, LmCocktail, RegMean
from merge_core.methods.data_free import (
    ConsensusTaskArithmetic,
    Emr,
    MagMax,
    MetaGpt,
    NormalizedTaskArithmetic,
)
from merge_core.methods.deltas import ApplyTaskVector, ExtractTaskVector
from merge_core.methods.model_stock import ModelStock
from merge_core.methods.outliers import Breadcrumbs, BreadcrumbsTies, Della, DellaLinear
from merge_core.methods.overlap import NearSwap, Ram, RamPlus
from merge_core.methods.pcb import Pcb
from merge_core.methods.sce import Sce
from merge_core.methods.spectral import IsoC, IsoCts, Knots, Star, TsvM, Wudi
from merge_core.methods.spherical import Karcher, MultiSlerp, NuSlerp, Slerp
from merge_core.methods.task_arithmetic import DareLinear, DareTies, TaskArithmetic, Ties

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Linear(),
        Passthrough(),
        Slerp(),
        NuSlerp(),
        MultiSlerp(),
        Karcher(),
        TaskArithmetic(),
        NormalizedTaskArithmetic(),
        MetaGpt(),
        Ties(),
        DareLinear(),
        DareTies(),
        Breadcrumbs(),
        BreadcrumbsTies(),
        DellaLinear(),
        Della(),
        ModelStock(),
        Sce(),
        NearSwap(),
        ArceeFusion(),
        Ram(),
        RamPlus(),
        MagMax(),
        Emr(),
        ConsensusTaskArithmetic(),
        Pcb(),
        IsoC(),
        IsoCts(),
        TsvM(),
        Star(),
        Knots(),
        Wudi(),
        Fisher(),
        RegMean(),
        LmCocktail(),
    )
}
"""Every method that a recipe may name."""

_INTERNAL: dict[str, Method] = {
    method.name: method for method in (ExtractTaskVector(), ApplyTaskVector())
}


def method_named(name: str, where: str = "merge_method") -> Method:
    """The method of this name.

    Raises:
        RecipeError: there is none; the message proposes the closest.
    """
    method = METHODS.get(name) or _INTERNAL.get(name)
    if method is None:
        raise RecipeError(f"unknown method '{name}'; {did_you_mean(name, METHODS)}", where=where)
    return method
