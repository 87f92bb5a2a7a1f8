"""A search in MLflow: one run, and a nested run for each trial, each written once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tasks.registry.client import TAG, ensure_experiment, open_registry
from tasks.registry.facts import slug
from tasks.registry.pages import every
from tasks.registry.run_files import log_files
from tasks.registry.runs import as_metrics, ensure_run, finish, is_recorded
from tasks.search.trial import Trial


@dataclass(frozen=True)
class SearchRun:
    """Where a search is written, and what is said of it as a whole."""

    tracking_uri: str
    experiment: str
    name: str
    study: str
    params: Mapping[str, str]


def record_search(
    search: SearchRun,
    trials: Sequence[Trial],
    files: Mapping[str, str | bytes],
    *,
    is_over: bool,
) -> str:
    """Write what is not there yet; the id of the search's run.

    Args:
        files: of the search's own run, by name; newer ones replace those of before.
        is_over: no more trials will follow.
    """
    from mlflow.entities import Param

    study = search.study
    with open_registry(search.tracking_uri, writing=True) as registry:
        client, experiment_id = registry.client, ensure_experiment(registry, search.experiment)
        tags = {TAG + "kind": "search", TAG + "search": study}
        same = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        parent = ensure_run(registry, experiment_id, same, f"search {search.name}", tags)
        if not is_over and parent.info.status == "FINISHED":  # with a larger budget it goes on
            client.update_run(parent.info.run_id, "RUNNING")
        new = {key: value for key, value in search.params.items() if key not in parent.data.params}
        client.log_batch(parent.info.run_id, params=[Param(*each) for each in new.items()])
        known = {
            run.data.tags.get(TAG + "trial")
            for run in every(
                client.search_runs, [experiment_id], f"tags.`{TAG}of_search` = '{study}'"
            )
            if is_recorded(run)
        }
        for trial in trials:
            if str(trial.number) in known:
                continue
            own = {
                "mlflow.parentRunId": parent.info.run_id,
                TAG + "kind": "trial",
                TAG + "of_search": study,
                TAG + "trial": str(trial.number),
                TAG + "outcome": trial.result.outcome,
            }
            keys = (TAG + "of_search", TAG + "trial")
            condition = " and ".join(f"tags.`{key}` = '{own[key]}'" for key in keys)
            run = ensure_run(registry, experiment_id, condition, f"trial {trial.number}", own)
            said = {slug(name): str(value) for name, value in trial.values.items()}
            if trial.label:
                said["label"] = trial.label
            client.log_batch(
                run.info.run_id,
                metrics=as_metrics(_metrics(trial), run.info.start_time),
                params=[Param(*each) for each in said.items() if each[0] not in run.data.params],
            )
            finish(registry, run.info.run_id)
        if files:
            log_files(registry, parent.info.run_id, files)
        if is_over:
            # A metric: with a larger budget a search has more, and a parameter stays as it is.
            number = as_metrics({"trials": float(len(trials))}, parent.info.start_time)
            client.log_batch(parent.info.run_id, metrics=number)
            finish(registry, parent.info.run_id)
        return str(parent.info.run_id)


def _metrics(trial: Trial) -> dict[str, float]:
    result, seconds = trial.result, trial.result.seconds
    named = {"objective": result.objective, "low": result.low, "high": result.high}
    found = {name: value for name, value in named.items() if value is not None}
    found |= {f"change/{slug(task)}": value for task, value in result.tasks.items()}
    found |= {f"seconds/{name}": value for name, value in seconds.model_dump().items()}
    return found | {"documents": float(result.documents)}
