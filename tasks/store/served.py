"""One registry's records of checkpoints: its versions, the models behind them, their files.

Everything is handed on as text with the version that says it. Whether a text leads to the store is
decided in `tasks.store.needs`: versions made in MLflow's own pages have no tags of ours.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tasks.registry.client import TAG, Registry, is_server
from tasks.registry.pages import every

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Run
    from mlflow.entities.model_registry import ModelVersion

_PAGE = 200
_EXPERIMENTS_AT_ONCE = 50
_MODEL_ID = re.compile(r"\bm-[0-9a-f]{32}\b")
_RUN_SOURCE = re.compile(r"runs:/+([0-9a-f]{32})\b")
_MISSING = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")
_OF_ANCESTORS = {TAG + key for key in ("base_digest", "recipe_digest", "plan_digest", "reasons")}
"""Tags of a version that name its ingredients: a version does not serve its merge's inputs."""
_OF_OUR_RUNS = [TAG + key for key in ("object_id", "digest", "path")]


@dataclass(frozen=True)
class Files:
    """Where the files are that a version loads."""

    version: str
    """`models:/NAME/VERSION`."""
    uri: str
    ours: bool
    """Whether mergeflow wrote them, so that two of them say all there is to know."""
    workspace: str | None = None
    """Of the server, where it has several."""


@dataclass
class Served:
    """The content of a registry's records."""

    texts: list[tuple[str, str]] = field(default_factory=list)
    """Pairs of a version or model, as people know it, and the text of its record."""
    files: list[Files] = field(default_factory=list)


def served_by(registry: Registry) -> Served:
    """The records of every version of every registered model, and of every model without one.

    Raises:
        MlflowException: MLflow refused, or does not answer any more.
    """
    found = Served()
    for workspace in workspaces(registry):
        with in_workspace(workspace):
            _Reader(registry, found, workspace).read()
    return found


def workspaces(registry: Registry) -> Sequence[str | None]:
    """Names of the workspaces of a server that has several; else None, the only one."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking._tracking_service.utils import _get_store

    if not is_server(registry.tracking_uri):
        return [None]  # MLflow opens a database of several workspaces behind a server alone
    store = _get_store(store_uri=registry.tracking_uri)
    try:
        has_several = getattr(store, "supports_workspaces", False)
    except MlflowException as error:
        if error.error_code != "INVALID_PARAMETER_VALUE":
            raise
        has_several = False  # a server from before there were any
    if not has_several:
        return [None]
    return sorted(workspace.name for workspace in registry.client.list_workspaces())


@contextlib.contextmanager
def in_workspace(name: str | None) -> Iterator[None]:
    """Let MLflow's client ask in one workspace."""
    if name is None:
        yield
        return
    from mlflow.utils.workspace_context import WorkspaceContext

    with WorkspaceContext(name):
        yield


class _Reader:
    """Reads one workspace; what several versions share is asked for once."""

    def __init__(self, registry: Registry, found: Served, workspace: str | None) -> None:
        self._client: Any = registry.client
        self._found = found
        self._workspace = workspace
        self._models: dict[str, LoggedModel | None] = {}
        self._runs: dict[str, Run | None] = {}

    def read(self) -> None:
        for version in every(self._client.search_model_versions, max_results=_PAGE):
            self._say_version(version)
        for model in self._models_without_versions():
            self._say_model(f"{model.name} ({model.model_id}, a model without a version)", model)

    def _say(self, who: str, *texts: object) -> None:
        said = [text for text in texts if isinstance(text, str) and text]
        where = f" in workspace {self._workspace}" if self._workspace else ""
        self._found.texts += [(who + where, text) for text in said]

    def _say_version(self, version: ModelVersion) -> None:
        name, number = version.name, str(version.version)
        who, source = f"models:/{name}/{number}", str(version.source or "")
        tags = [value for key, value in version.tags.items() if key not in _OF_ANCESTORS]
        self._say(who, source, version.description, version.run_link, *tags)
        place = self._or_none(self._client.get_model_version_download_uri, name, number) or source
        self._say(who, place)
        ids = {version.model_id} if version.model_id else set()
        ids |= set(_MODEL_ID.findall(f"{source} {place}"))
        named = (version.run_id, version.tags.get(TAG + "run_id"))
        runs = {run_id for run_id in named if run_id}
        for run_id in sorted(runs | set(_RUN_SOURCE.findall(source))):
            run = self._run(run_id)
            if run is not None:
                ids |= self._say_run(who, run)
        models = [model for each in sorted(ids) if (model := self._model(each)) is not None]
        for model in models:
            self._say_model(who, model)
        places = {place: False} | {
            model.artifact_location: TAG + "flavors" in model.tags for model in models
        }
        self._found.files += [
            Files(who, uri, ours, self._workspace) for uri, ours in places.items() if uri
        ]

    def _say_model(self, who: str, model: LoggedModel) -> None:
        self._say(who, model.name, model.artifact_location)
        self._say(who, *model.tags.values(), *model.params.values())

    def _say_run(self, who: str, run: Run) -> set[str]:
        """Add the content of a run; return the ids of the models that it made."""
        tags = run.data.tags
        if TAG + "kind" in tags:
            self._say(who, *(tags.get(key) for key in _OF_OUR_RUNS))
        else:
            self._say(who, *tags.values(), *run.data.params.values())
        made = run.outputs.model_outputs if run.outputs else []
        return {output.model_id for output in made}

    def _models_without_versions(self) -> Iterator[LoggedModel]:
        """Models that no version led to; not those whose versions retention has taken away."""
        experiments = self._experiments()
        for start in range(0, len(experiments), _EXPERIMENTS_AT_ONCE):
            found = every(
                self._client.search_logged_models,
                experiments[start : start + _EXPERIMENTS_AT_ONCE],
                max_results=_PAGE,
            )
            for model in found:
                if model.model_id not in self._models and TAG + "retired" not in model.tags:
                    yield model

    def _experiments(self) -> list[str]:
        from mlflow.entities import ViewType

        found = every(self._client.search_experiments, view_type=ViewType.ALL, max_results=_PAGE)
        return [experiment.experiment_id for experiment in found]

    def _model(self, model_id: str) -> LoggedModel | None:
        if model_id not in self._models:
            self._models[model_id] = self._or_none(self._client.get_logged_model, model_id)
        return self._models[model_id]

    def _run(self, run_id: str) -> Run | None:
        if run_id not in self._runs:
            self._runs[run_id] = self._or_none(self._client.get_run, run_id)
        return self._runs[run_id]

    @staticmethod
    def _or_none(ask: Any, *arguments: str) -> Any:
        """The answer of a call; None for a record that has been deleted."""
        from mlflow.exceptions import MlflowException

        try:
            return ask(*arguments)
        except MlflowException as error:
            if error.error_code not in _MISSING:
                raise
            return None
