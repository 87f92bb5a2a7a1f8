"""What the last merge of a pipeline was made of, to notice a reference that leads elsewhere now."""

from __future__ import annotations

from merge_core.errors import MergeflowError, StepError
from tasks.lineage.trace import inputs_of_run
from tasks.registry.client import TAG, mergeflow_experiments, open_registry


def inputs_of_last_run(tracking_uri: str, model: str, pipeline: str) -> dict[str, str]:
    """Digest by reference; empty where nothing was registered yet.

    Of two references to one checkpoint, a run notes the first.

    Raises:
        RegistryUnreachableError: the MLflow server did not answer.
        StepError: MLflow refused.
    """
    try:
        with open_registry(tracking_uri) as registry:
            experiments = mergeflow_experiments(registry)
            if not experiments:
                return {}
            found = registry.client.search_runs(
                experiments,
                f"tags.`{TAG}kind` = 'merge' and tags.`{TAG}pipeline` = '{pipeline}'"
                f" and tags.`{TAG}model` = '{model}'",
                max_results=1,
                order_by=["attributes.start_time DESC"],
            )
    except StepError:
        raise
    except MergeflowError:
        return {}  # there is no database yet
    return {item.reference: item.digest for run in found for item in inputs_of_run(run)}
