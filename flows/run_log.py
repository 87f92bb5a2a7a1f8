"""mergeflow's own lines in the log of a run in Prefect, whoever started the run."""

from __future__ import annotations

import logging
import re

from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging.handlers import APILogHandler

_LOGIN = re.compile(r"(?<=://)[^/?#\s@]*(?::[^/?#\s]*)?@")


def log_to_prefect() -> None:
    """Send what mergeflow logs from INFO on to the log of the run at work.

    To be called in the process of a run. Prefect's setting `logging.extra_loggers` gives a
    logger a handler and no level, so lines of INFO would be lost.
    """
    logger = logging.getLogger("mergeflow")
    if not logger.isEnabledFor(logging.INFO):
        logger.setLevel(logging.INFO)
    handlers = [each for each in logger.handlers if isinstance(each, APILogHandler)]
    if not handlers:
        handlers = [APILogHandler()]
        handlers[0].addFilter(_is_of_a_run)
        logger.addHandler(handlers[0])
    for handler in handlers:
        if _without_logins not in handler.filters:
            handler.addFilter(_without_logins)


def _is_of_a_run(record: logging.LogRecord) -> bool:
    """Prefect complains of lines that belong to no run."""
    named = getattr(record, "flow_run_id", None)
    return bool(named or FlowRunContext.get() or TaskRunContext.get())


def _without_logins(record: logging.LogRecord) -> bool:
    """Addresses may hold a password, and anybody who may look at the run reads its log."""
    said = record.getMessage()
    if "://" in said and "@" in said:
        record.msg, record.args = _LOGIN.sub("***@", said), ()
    return True
