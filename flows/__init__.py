"""The flows and the command line.

Two things are so before any module of this package is imported: nothing calls home, and Prefect
takes no orders from files in the current directory.
"""

from flows.no_telemetry import silence
from flows.prefect_settings_files import ignore_settings_files

silence()
ignore_settings_files()
