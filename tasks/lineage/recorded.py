"""What MLflow recorded of checkpoints, by digest: the merge that made each, and its LoggedModel.

MLflow is asked for each checkpoint of a small ancestry. As soon as an ancestry proves large,
everything that mergeflow recorded is listed once, page by page, and looked up in memory: a thousand
searches take longer than one list.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tasks.registry.client import TAG, Registry
from tasks.registry.pages import every

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Run

_ASKED_ONE_BY_ONE = 24
_PAGE_OF_RUNS = 1000
_PAGE_OF_MODELS = 500


class Recorded:
    """A registry's records of merges and checkpoints, fetched when they are asked for."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._active, self._all = _experiments(registry)
        self._merges: dict[str, Run | None] = {}
        self._models: dict[str, LoggedModel | None] = {}
        self._listed = False

    def look_up(self, digests: Iterable[str]) -> None:
        """Fetch together what is recorded of checkpoints that `merge` and `model` will ask for."""
        unknown = [digest for digest in dict.fromkeys(digests) if digest not in self._merges]
        if not unknown or self._listed:
            return
        if len(self._merges) + len(unknown) > _ASKED_ONE_BY_ONE:
            self._list()
            return
        for digest in unknown:
            self._merges[digest] = self._merge_of(digest)
            self._models[digest] = self._model_of(digest)

    def merge(self, digest: str) -> Run | None:
        """The latest merge whose output has this digest; a deleted one where all are."""
        self.look_up([digest])
        return self._merges.get(digest)

    def model(self, digest: str) -> LoggedModel | None:
        """The oldest LoggedModel with this digest."""
        self.look_up([digest])
        return self._models.get(digest)

    def merges(self) -> dict[str, Run]:
        """Every merge that is recorded, by the digest of its output."""
        found: dict[str, Run] = {}
        for run in self._runs():
            digest = run.data.tags.get(TAG + "digest", "")
            if digest not in found or _preference(run) > _preference(found[digest]):
                found[digest] = run
        return found

    def _list(self) -> None:
        self._listed, self._merges, self._models = True, {**self.merges()}, {}
        for model in self._logged_models():
            digest = model.tags.get(TAG + "digest", "")
            known = self._models.get(digest)
            if known is None or model.creation_timestamp < known.creation_timestamp:
                self._models[digest] = model

    def _runs(self) -> Iterable[Run]:
        from mlflow.entities import ViewType

        if not self._all:
            return ()
        return every(
            self._registry.client.search_runs,
            self._all,
            f"tags.`{TAG}kind` = 'merge'",
            run_view_type=ViewType.ALL,
            max_results=_PAGE_OF_RUNS,
        )

    def _logged_models(self) -> Iterable[LoggedModel]:
        if not self._active:
            return ()
        return every(
            self._registry.client.search_logged_models,
            self._active,
            filter_string=f"tags.`{TAG}digest` != ''",
            max_results=_PAGE_OF_MODELS,
        )

    def _merge_of(self, digest: str) -> Run | None:
        from mlflow.entities import ViewType

        for experiments, view in (
            (self._active, ViewType.ACTIVE_ONLY),
            (self._all, ViewType.DELETED_ONLY),
        ):
            if not experiments:
                continue
            found = self._registry.client.search_runs(
                experiments,
                f"tags.`{TAG}kind` = 'merge' and tags.`{TAG}digest` = '{digest}'",
                run_view_type=view,
                max_results=1,
                order_by=["attributes.start_time DESC"],
            )
            if found:
                return found[0]
        return None

    def _model_of(self, digest: str) -> LoggedModel | None:
        if not self._active:
            return None
        found = self._registry.client.search_logged_models(
            self._active,
            filter_string=f"tags.`{TAG}digest` = '{digest}'",
            max_results=1,
            order_by=[{"field_name": "creation_timestamp", "ascending": True}],
        )
        return found[0] if found else None


def is_deleted(run: Run) -> bool:
    """Whether somebody deleted a run in MLflow."""
    return str(run.info.lifecycle_stage) == "deleted"


def _preference(run: Run) -> tuple[bool, int]:
    return not is_deleted(run), run.info.start_time or 0


def _experiments(registry: Registry) -> tuple[list[str], list[str]]:
    """Ids of mergeflow's experiments: those that are there, and with those that were deleted."""
    from mlflow.entities import ViewType

    found = list(
        every(
            registry.client.search_experiments,
            view_type=ViewType.ALL,
            filter_string=f"tags.`{TAG}experiment` = 'true'",
        )
    )
    active = [each.experiment_id for each in found if each.lifecycle_stage == "active"]
    return active, [each.experiment_id for each in found]
