"""The audit flow: `mergeflow audit` as a deployment with a form. It only reads."""

from __future__ import annotations

from collections.abc import Iterator

from prefect import flow, runtime
from prefect.client.schemas.objects import State

from flows.environment.starting_directory import enter
from flows.run_log import log_to_prefect
from flows.run_step import UNSTORED
from flows.settings.audit_form import AuditForm, Version
from flows.settings.parameter_words import in_our_words
from flows.steps.artifacts import publish_report
from flows.steps.audit_page import audit_markdown, summary
from flows.steps.endings import Ending, completed, failed, send_event
from merge_core.errors import CheckpointError
from merge_core.homes.home import Home
from merge_core.text.plain import plain_log
from tasks.audit.audit import audit_all, audit_version
from tasks.audit.report import AuditReport
from tasks.progress import prefect_progress
from tasks.registry.client import default_tracking_uri

_ALL = "all"
_SHOWN = 10
"""Failing answers that the message of the run names; the page has all."""

_log = plain_log("mergeflow")


def _run_name() -> str:
    model = str(runtime.flow_run.parameters.get("model") or _ALL)
    return f"audit {model.removeprefix('models:/')}"


@flow(name="audit", flow_run_name=_run_name, on_completion=[send_event], **UNSTORED)
def audit_versions(model: Version = "") -> State[list[AuditReport]]:
    """Compare registered versions with all that is recorded of them, and read every byte that they
    lead to. Nothing is changed.

    Ends as `Completed` where everything holds; as `Failed` with what does not.

    Args:
        model: models:/NAME@ALIAS or models:/NAME/VERSION; by default every version of every model
            that mergeflow registered.
    """
    log_to_prefect()
    try:
        enter()
        reports = list(_reports(model))
        publish_report(model.removeprefix("models:/") or _ALL, "audit", audit_markdown(reports))
        if not all(report.holds for report in reports):
            return failed(_what_fails(reports))
    except Exception as error:
        return failed(error)
    return completed(Ending.HOLDS, summary(reports), reports)


in_our_words(audit_versions, AuditForm)


def _reports(model: str) -> Iterator[AuditReport]:
    home = Home.discover(make=False)
    address, progress = default_tracking_uri(home), prefect_progress("audit")
    found = (
        iter([audit_version(home, model, address, progress)])
        if model
        else audit_all(home, address, progress)
    )
    for report in found:
        _log.info("%s: %s", report.model_uri, summary([report]))
        yield report


def _what_fails(reports: list[AuditReport]) -> CheckpointError:
    failing = [
        f"{report.model_uri}: {answer.check}: {answer.what}"
        for report in reports
        for answer in report.of("fails")
    ]
    more = len(failing) - _SHOWN
    return CheckpointError(
        summary(reports),
        mend="read the page `audit` under Artifacts of this run: it has every check",
        details=[*failing[:_SHOWN], *([f"... and {more} more"] if more > 0 else [])],
    )
