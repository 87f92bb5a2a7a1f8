"""mergeflow's library: recipes, checkpoints, merge methods and the streaming merge engine.

Usable on its own; it imports neither prefect, mlflow, lm_eval nor transformers. The names below are
its public face, and each is imported when it is first used. Everything else is in the rooms,
whose ladder `pyproject.toml` states: a module imports from rooms below its own.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from merge_core.former_names import forward_former_names

if TYPE_CHECKING:
    from merge_core.checkpoints.sources import describe_source as describe_source
    from merge_core.homes.home import Home as Home
    from merge_core.methods import METHODS as METHODS
    from merge_core.operations.merge import merge as merge
    from merge_core.operations.profile import profile_task_vectors as profile
    from merge_core.recipes.loading import load_recipe as load_recipe
    from merge_core.runtime.compute import Compute as Compute
    from merge_core.verification.verify import verify as verify

_PLACES = {
    "METHODS": ("merge_core.methods", "METHODS"),
    "Compute": ("merge_core.runtime.compute", "Compute"),
    "Home": ("merge_core.homes.home", "Home"),
    "describe_source": ("merge_core.checkpoints.sources", "describe_source"),
    "load_recipe": ("merge_core.recipes.loading", "load_recipe"),
    "merge": ("merge_core.operations.merge", "merge"),
    "profile": ("merge_core.operations.profile", "profile_task_vectors"),
    "verify": ("merge_core.verification.verify", "verify"),
}
"""The public names, each with its module and its name there."""

__all__ = [
    "METHODS",
    "Compute",
    "Home",
    "describe_source",
    "load_recipe",
    "merge",
    "profile",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'merge_core' has no attribute {name!r}")
    module, there = _PLACES[name]
    return getattr(import_module(module), there)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})


forward_former_names()
