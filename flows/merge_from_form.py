"""The merge flow as a deployment: its parameters are the form in Prefect's UI."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, get_client, runtime
from prefect.client.schemas.objects import State

from flows.dry_run import rehearse
from flows.endings import Ending, completed, failed, send_event
from flows.merge import final_state
from flows.merge_form import (
    DeviceChoice,
    MergeForm,
    Name,
    OptionalName,
    PromotionForm,
    SuiteReference,
    pipeline_of,
)
from flows.run_log import log_to_prefect
from flows.starting_directory import enter
from flows.steps import UNSTORED
from merge_core.errors import MergeflowError
from merge_core.home import Home
from merge_core.plain_text import plain


def _run_name() -> str:
    """`NAME-DIGEST`, as `mergeflow run` names it; the bare name of a form that makes no sense."""
    filled, name = runtime.flow_run.parameters, str(runtime.flow_run.parameters["name"])
    try:
        enter()
        recipe = MergeForm.model_validate(filled["merge"]).read(Home.discover()).recipe
    except (MergeflowError, ValueError):
        return name
    kind = "dry-run-" if filled.get("dry_run") else ""
    return f"{kind}{name}-{recipe.digest[:8]}"


@flow(name="merge", flow_run_name=_run_name, on_completion=[send_event], **UNSTORED)
def merge_from_form(
    name: Name,
    merge: MergeForm,
    suite: SuiteReference = "english-small",
    promote: PromotionForm = PromotionForm(),  # noqa: B008 - frozen, and the form shows it
    registered_model: OptionalName = "",
    device: DeviceChoice = "auto",
    dry_run: bool = False,
) -> State:
    """Merge, evaluate, and promote if better; else the base keeps serving.

    Args:
        name: Shown in the run list. Letters, digits, dot, dash and underscore.
        merge: Which models, merged how.
        suite: What judges the result. A suite directory or the name of a shipped suite.
        promote: When the merged checkpoint may replace the base.
        registered_model: Name in MLflow's model registry. Empty, the merge is not registered.
        device: Where to merge and evaluate. Auto takes a GPU when there is one.
        dry_run: Only check the form, the suite and the checkpoints' headers. Nothing is written.
    """
    log_to_prefect()
    try:
        enter()
        filled = merge.read(Home.discover())
        pipeline = pipeline_of(filled, name, suite, promote, registered_model, device)
        _tag(pipeline.recipe.merge_method, Path(suite).name, registered_model)
        if dry_run:
            return completed(Ending.DRY_RUN, rehearse(pipeline, filled.beside))
    except MergeflowError as error:
        return failed(error)
    return final_state(pipeline, filled.beside)


def _tag(*words: str) -> None:
    """Add tags to the run: what one looks for in the run list."""
    labels = [plain(word) for word in words if word]
    with get_client(sync_client=True) as client:
        client.update_flow_run(runtime.flow_run.id, tags=[*runtime.flow_run.tags, *labels])
