"""The flows and the command line. Public: `merge`, `average`, `approve`, `merge_from_form`.

Two things are so before any module of this package is imported: nothing calls home, and Prefect
takes its logging from its own file, since files that it would find elsewhere call functions.
"""

from flows.environment.former_names import forward_former_names
from flows.environment.no_telemetry import silence
from flows.environment.prefect_logging import settle_logging

forward_former_names()
silence()
settle_logging()
