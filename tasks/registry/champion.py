"""Which version of a registered model is the champion now."""

from __future__ import annotations

from merge_core.errors import MergeflowError, StepError
from tasks.records import EvaluationReport
from tasks.registry.absent import none_if_absent
from tasks.registry.client import TAG, Registry, mergeflow_experiments, open_registry
from tasks.registry.evaluations import metric_name
from tasks.registry.versions import champion_version
from tasks.reports.serving import Serving


def holds_champion(tracking_uri: str, name: str, digest: str) -> str | None:
    """`models:/NAME/VERSION` if the champion is the checkpoint of this digest, else None.

    Raises:
        RegistryUnreachableError: the MLflow server did not answer.
        StepError: MLflow refused.
    """
    address = current_champion(tracking_uri, name)
    if address is None:
        return None
    with open_registry(tracking_uri) as registry:
        version = registry.client.get_model_version(name, address.rpartition("/")[2])
    return address if version.tags.get(TAG + "digest") == digest else None


def current_champion(tracking_uri: str, name: str) -> str | None:
    """`models:/NAME/VERSION` of the champion; None when the model has none, or does not exist.

    Raises:
        RegistryUnreachableError: the MLflow server did not answer.
        StepError: MLflow refused.
    """
    try:
        with open_registry(tracking_uri) as registry:
            version = none_if_absent(champion_version, registry, name)
    except StepError:
        raise
    except MergeflowError:
        return None  # nothing has been registered yet
    return f"models:/{name}/{version}" if version else None


def serving_now(tracking_uri: str, name: str, like: EvaluationReport) -> Serving | None:
    """The champion with its scores on a suite, as far as MLflow has them; None without a champion.

    Args:
        like: a report on that suite.

    Raises:
        RegistryUnreachableError: the MLflow server did not answer.
        StepError: MLflow refused.
    """
    address = current_champion(tracking_uri, name)
    if address is None:
        return None
    with open_registry(tracking_uri) as registry:
        version = registry.client.get_model_version(name, address.rpartition("/")[2])
        digest = version.tags.get(TAG + "digest", "")
        return Serving(address, digest, _recorded_scores(registry, digest, like))


def _recorded_scores(registry: Registry, digest: str, like: EvaluationReport) -> dict[str, float]:
    """Score by task of the latest evaluation of a checkpoint on the suite of another report."""
    experiments = mergeflow_experiments(registry)
    if not (digest and experiments):
        return {}
    found = registry.client.search_runs(
        experiments,
        f"tags.`{TAG}kind` = 'evaluation' and tags.`{TAG}digest` = '{digest}'"
        f" and tags.`{TAG}suite_digest` = '{like.suite_digest}'",
        max_results=1,
        order_by=["attributes.start_time DESC"],
    )
    metrics = found[0].data.metrics if found else {}
    names = {score.task: metric_name(score) for score in like.scores}
    return {task: metrics[name] for task, name in names.items() if name in metrics}
