"""Modules under the names that the documentation gave them before the rooms: for one version.

An import of a former name works and warns. A deployment on a Prefect server and a file of another
project may hold such a name, so `python -m` and Prefect's entry points find them too. Whatever is
removed here has to be removed from `docs/upgrading.md` as well.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.abc import Loader
else:
    Loader = object  # importlib.abc is most of what `import merge_core` would take

FORMER_MODULES = {
    "flows.average_checkpoints": "flows.average",
    "flows.mlflow_server": "flows.servers.mlflow_server",
    "flows.prefect_server": "flows.servers.prefect_server",
    "flows.shard_group": "flows.fanout.merge_group",
    "flows.stack_setup": "flows.stack.setup",
    "merge_core.compatibility": "merge_core.verification.verify",
    "merge_core.digests": "merge_core.files.digests",
    "merge_core.engine_version": "merge_core.planning.engine_version",
    "merge_core.home": "merge_core.homes.home",
    "merge_core.merge": "merge_core.operations.merge",
    "merge_core.preflight": "merge_core.verification.headers",
    "merge_core.profile": "merge_core.operations.profile",
    "merge_core.recipe": "merge_core.recipes.loading",
    "merge_core.rope": "merge_core.configs.rotary",
    "merge_core.sources": "merge_core.checkpoints.sources",
    "tasks.checkpoint_saved": "tasks.averaging.checkpoint_saved",
    "tasks.profile_plot": "tasks.reports.profile_plot",
    "tasks.stack_record": "tasks.servers.stack_record",
}
"""Each former name that the documentation showed, with the module that it is today."""

_PUBLIC = {"merge_core.merge": "merge", "merge_core.profile": "profile_task_vectors"}
"""Former modules whose name is a public function of `merge_core` today: they can be called."""


class FormerModule(ModuleType):
    """A module under its former name: it has what the present one has."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(import_module(FORMER_MODULES[self.__name__]), name)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if self.__name__ not in _PUBLIC:
            raise TypeError("'module' object is not callable")
        return getattr(self, _PUBLIC[self.__name__])(*arguments, **options)


class _Former(Loader):
    """Finds former names, after everything that is really there."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return former_spec(fullname)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return FormerModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        warnings.warn(_moved(module.__name__), DeprecationWarning, stacklevel=3)
        import_module(FORMER_MODULES[module.__name__])

    def get_code(self, fullname: str) -> CodeType:
        """For `python -m`: runs the present module as the program."""
        warnings.warn(_moved(fullname), DeprecationWarning, stacklevel=3)
        run = f"run_module({FORMER_MODULES[fullname]!r}, run_name='__main__', alter_sys=True)"
        return compile(f"from runpy import run_module\n{run}", fullname, "exec")


def former_spec(name: str) -> ModuleSpec | None:
    """How a former name is imported; None for any other name."""
    return ModuleSpec(name, _Former()) if name in FORMER_MODULES else None


def forward_former_names() -> None:
    """Let imports of former names succeed in this process."""
    if not any(isinstance(finder, _Former) for finder in sys.meta_path):
        sys.meta_path.append(_Former())


def _moved(name: str) -> str:
    return f"{name} is {FORMER_MODULES[name]} now; the former name works in this version only"
