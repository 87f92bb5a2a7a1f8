"""What the tests of every method know of each: a method of the package has one entry here.

`test_method_invariants` merges by `alone`, `twins` and `in_any_order`, `gpu_cases` on a GPU too,
`pinned_cases` keeps the digests of `pinned`. How many models a method takes, whether it has weights
and whether it needs a base is taken from the method itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Settings = dict[str, Any]
"""Parameters of a recipe, by name; what is left out has its default."""


@dataclass(frozen=True)
class Case:
    """Settings of one method under which something holds. None: there are no such settings."""

    alone: Settings | None
    """One expert comes back as it is. None: the method takes two or more, or calibration data, or
    changes even a single expert."""
    in_any_order: Settings | None
    """The order of three models means nothing. None: the method takes fewer, or data."""
    twins: Settings | None = None
    """Two equal experts give that expert."""
    pinned: tuple[Settings, ...] = ({},)
    """Merges whose plan and bytes are kept in `pinned_digests.json`: each way through the code."""


CASES: dict[str, Case] = {
    "linear": Case(alone={}, twins={}, in_any_order={}, pinned=({}, {"normalize": False})),
    "passthrough": Case(alone={}, in_any_order=None, pinned=({"scale": 0.7}, {})),
    "slerp": Case(alone={"t": 1}, in_any_order=None, pinned=({"t": 0.3},)),
    "nuslerp": Case(
        alone=None,
        twins={"weight": 0.5},
        in_any_order=None,
        pinned=({}, {"nuslerp_flatten": False}, {"nuslerp_row_wise": True}),
    ),
    "multislerp": Case(
        alone={"weight": 0.3}, twins={"weight": 0.5}, in_any_order={}, pinned=({}, {"eps": 1e-60})
    ),
    "karcher": Case(alone=None, twins={}, in_any_order={}),
    "task_arithmetic": Case(
        alone={"weight": 1}, in_any_order={}, pinned=({"lambda": 0.7}, {"normalize": True})
    ),
    "ties": Case(
        alone={"weight": 0.3},
        twins={"weight": 0.4, "density": 1},
        in_any_order={"density": 0.4},
        pinned=(
            {"density": 0.3},
            {"density": 0.2, "elect": "count", "normalize": False},
            {"density": 0.6, "average": "count"},
            {"density": 0.3, "rescale": True},
            {"density": 0.3, "scope": "global"},
        ),
    ),
    "dare_linear": Case(
        alone={"weight": 1},
        in_any_order={"density": 0.4},
        pinned=({"density": 0.4}, {"density": 0.4, "rescale": "inverse_density"}),
    ),
    "dare_ties": Case(
        alone={"weight": 1},
        in_any_order={"density": 0.4},
        pinned=({"density": 0.6, "rescale": "l2", "normalize": True},),
    ),
    "breadcrumbs": Case(
        alone={"weight": 1},
        in_any_order={"density": 0.4, "gamma": 0.1},
        pinned=({"density": 0.4, "gamma": 0.05},),
    ),
    "breadcrumbs_ties": Case(
        alone={"weight": 1},
        in_any_order={"density": 0.4, "gamma": 0.1},
        pinned=({"density": 0.8, "gamma": 0.1},),
    ),
    "della_linear": Case(
        alone={"weight": 1},
        in_any_order={"density": 0.4},
        pinned=(
            {"density": 0.4, "epsilon": 0.2, "rescale": "l2"},
            {"density": 0.5, "epsilon": 0.1, "rescale": "inverse_density"},
        ),
    ),
    "della": Case(
        alone={"weight": 0.3},
        twins={"weight": 0.4},
        in_any_order={"density": 0.4},
        pinned=({"density": 0.5, "epsilon": 0.3}, {"density": 0.7, "epsilon": 0.0}),
    ),
    "model_stock": Case(
        alone=None, twins={}, in_any_order={"filter_wise": True}, pinned=({}, {"filter_wise": True})
    ),
    "sce": Case(
        alone={}, twins={}, in_any_order={"select_topk": 0.4}, pinned=({}, {"select_topk": 0.3})
    ),
    "nearswap": Case(alone={"t": 1000000.0}, in_any_order=None, pinned=({"t": 0.01},)),
    "ram": Case(
        alone={"epsilon": 0}, twins={"epsilon": 0}, in_any_order={}, pinned=({"epsilon": 0.02},)
    ),
    "ramplus_tl": Case(
        alone={"epsilon": 0}, twins={"epsilon": 0}, in_any_order={}, pinned=({"epsilon": 0.02},)
    ),
    "arcee_fusion": Case(alone=None, in_any_order=None),
    "magmax": Case(alone={"lambda": 1}, twins={"lambda": 1}, in_any_order={}),
    "emr": Case(alone={}, twins={}, in_any_order={}),
    "consensus_ta": Case(alone={"k": 1, "lambda": 1}, twins={"lambda": 0.5}, in_any_order={}),
    "metagpt": Case(alone={}, twins={}, in_any_order={}, pinned=({}, {"scope": "global"})),
    "normalized_task_arithmetic": Case(
        alone={"weight": 1},
        twins={"weight": 0.5},
        in_any_order={},
        pinned=({}, {"scope": "global"}),
    ),
    "pcb": Case(alone=None, in_any_order={}),
    "iso_c": Case(alone=None, in_any_order={}),
    "iso_cts": Case(alone=None, in_any_order={}),
    "knots": Case(alone={}, twins={}, in_any_order={"density": 0.4}, pinned=({"density": 0.4},)),
    "star": Case(alone={"eta": 1}, twins={"eta": 1}, in_any_order={}),
    "tsv_m": Case(alone={}, in_any_order={}),
    "wudi": Case(alone={}, twins={}, in_any_order={}),
    "fisher": Case(alone=None, in_any_order=None),
    "regmean": Case(alone=None, in_any_order=None),
    "lm_cocktail": Case(alone=None, in_any_order=None),
}
