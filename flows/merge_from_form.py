"""The merge flow as deployments: the parameters of each are a form in Prefect's UI.

One flow for each form, all of them made alike: what differs is the form.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, get_client, runtime
from prefect.client.schemas.objects import State
from prefect.flows import Flow
from pydantic import Field
from pydantic.fields import FieldInfo

from flows.environment.starting_directory import enter
from flows.merge import run_pipeline
from flows.run_log import log_to_prefect
from flows.run_step import UNSTORED
from flows.search import run_search
from flows.settings.form_fields import Judged
from flows.settings.merge_form import AnyMethod, pipeline_of
from flows.settings.method_forms import FORMS, Form
from flows.settings.parameter_words import in_our_words
from flows.settings.pipeline import Pipeline
from flows.settings.search import SearchPipeline
from flows.settings.search_form import SearchForm
from flows.steps.dry_run import rehearse
from flows.steps.endings import Ending, completed, failed, send_event
from merge_core.errors import MergeflowError
from merge_core.homes.home import Home
from merge_core.text.plain import plain

AnyForm = AnyMethod | Form | SearchForm

_LAST = (
    *("dtype", "suite", "own_suite", "promote"),
    *("registered_model", "device", "dry_run"),
)
"""Fields that are asked for after those of the merge itself."""


def _flow_of(name: str, form: type[AnyForm], flow_name: str = "merge") -> Flow[..., State]:
    """The flow whose parameters are the fields of a form; `name` is its name in this module."""

    def run(**filled: Any) -> State:
        return _run(form.model_validate(filled))

    run.__name__ = run.__qualname__ = name
    run.__doc__ = inspect.getdoc(form)
    vars(run)["__signature__"] = _signature(form)
    named = _run_name(form)
    made = flow(name=flow_name, flow_run_name=named, on_completion=[send_event], **UNSTORED)(run)
    return in_our_words(made, form)


def _run(form: AnyForm) -> State:
    """Merge or search, evaluate, and promote if better; else the base keeps serving."""
    name, suite, dry_run = form.name, form.judged_by, form.dry_run
    registered_model = form.registered_model
    log_to_prefect()
    try:
        enter()
        filled = form.read(Home.discover())
        if isinstance(form, SearchForm):
            pipeline: Pipeline = form.pipeline(filled)
        else:
            pipeline = pipeline_of(filled, name, suite, form.promote, registered_model, form.device)
        _tag(pipeline.recipe.merge_method, Path(suite).name, registered_model)
        if dry_run:
            return completed(Ending.DRY_RUN, rehearse(pipeline, filled.beside))
    except Exception as error:
        return failed(error)
    if isinstance(pipeline, SearchPipeline):
        return run_search(pipeline, filled.beside)
    return run_pipeline(pipeline, filled.beside)


def _run_name(form: type[AnyForm]) -> Any:
    """`NAME-DIGEST`, as `mergeflow run` names it; the bare name of a form that makes no sense."""

    def named() -> str:
        filled = runtime.flow_run.parameters
        try:
            enter()
            recipe = form.model_validate(filled).read(Home.discover()).recipe
        except (MergeflowError, ValueError, OSError):
            return str(filled.get("name", "merge"))
        kind = "dry-run-" if filled.get("dry_run") else ""
        return f"{kind}{filled['name']}-{recipe.digest[:8]}"

    return named


def _signature(form: type[Judged]) -> inspect.Signature:
    """The fields of a form as parameters, with all that Prefect's schema of them should say."""
    fields = form.model_fields
    own = [name for name in fields if name != "name" and name not in _LAST]
    order = ["name", *own, *(name for name in _LAST if name in fields)]
    return inspect.Signature([_parameter(name, fields[name]) for name in order])


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    said = {**extra, "title": field.title, "description": field.description}
    given = field.get_default(call_default_factory=True)
    default = inspect.Parameter.empty if field.is_required() else given
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[field.annotation, Field(json_schema_extra=said)],
    )


def _tag(*words: str) -> None:
    """Add tags to the run, by which a person filters the run list."""
    labels = [plain(word) for word in words if word]
    with get_client(sync_client=True) as client:
        client.update_flow_run(runtime.flow_run.id, tags=[*runtime.flow_run.tags, *labels])


merge_from_form = _flow_of("merge_from_form", AnyMethod)
average = _flow_of("average", FORMS["average"])
task_arithmetic = _flow_of("task_arithmetic", FORMS["task-arithmetic"])
ties = _flow_of("ties", FORMS["ties"])
dare = _flow_of("dare", FORMS["dare"])
slerp = _flow_of("slerp", FORMS["slerp"])
stack_layers = _flow_of("stack_layers", FORMS["stack-layers"])
recipe = _flow_of("recipe", FORMS["recipe"])
search = _flow_of("search", SearchForm, "search")
