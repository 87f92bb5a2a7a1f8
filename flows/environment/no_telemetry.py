"""Nothing leaves this machine that a command does not ask for: no telemetry, no catalogues.

The package sets these before any of its modules is imported: Prefect announces its telemetry, and
looks up where to send it, when it is imported on a terminal. Child processes inherit them.
"""

from __future__ import annotations

import os

NO_TELEMETRY = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # The prices of other companies' models, which MLflow's pages would fetch from GitHub.
    "MLFLOW_MODEL_CATALOG_URI": "",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
}
"""What the libraries here know to be silenced by. It wins over what the user has set: who wants to
be counted calls those programs without mergeflow."""


def silence() -> None:
    """Set them for this process and all that it starts."""
    os.environ.update(NO_TELEMETRY)
