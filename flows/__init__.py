"""The flows and the command line. Importing any module of this package first settles where Prefect
takes its logging from: files that it would find call functions.
"""

from flows.prefect_logging import settle_logging

settle_logging()
