"""Which version of a registered model is the champion now."""

from __future__ import annotations

from merge_core.errors import MergeflowError, StepError
from tasks.promotion import champion_version
from tasks.registry_client import TAG, open_registry


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
    from mlflow.exceptions import MlflowException

    try:
        with open_registry(tracking_uri) as registry:
            try:
                version = champion_version(registry, name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return None
    except StepError:
        raise
    except MergeflowError:
        return None  # nothing has been registered yet
    return f"models:/{name}/{version}" if version else None
