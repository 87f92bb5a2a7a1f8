"""An environment without passwords, for children that run a suite or a model: both are code."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping

from merge_core.homes.home import Home

_NAMES = re.compile(
    r"^(PREFECT|MLFLOW|_MLFLOW|DATABRICKS|AWS|AZURE|ARM|GOOGLE|GCLOUD|GCP|PG|REDIS|SSH|GPG|GH|GITHUB"
    r"|GITLAB|DOCKER|KUBE|VAULT|WANDB|COMET|NEPTUNE|OPENAI|ANTHROPIC|SMTP)_?"
    r"|PASS|PASSWD|PSWD|PWD|PW$|_PW_|SECRET|TOKEN|CREDENTIAL|AUTH|SIGNATURE|COOKIE|SESSION|PRIVATE"
    r"|(^|_)KEYS?($|_)|APIKEY|(^|_)PAT$|(^|_)DSN$",
    re.IGNORECASE,
)
_HARMLESS = {"PWD", "OLDPWD", "TOKENIZERS_PARALLELISM", "PREFECT__FLOW_RUN_ID"}
"""The last one tells `mergeflow up` whose processes still live."""
_LOGIN_IN_ADDRESS = re.compile(r"://[^/?#\s]*@")
_REFERENCE = re.compile(r"\$\{(\w+)\}")
HUB_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
"""Variables for a suite whose data is on the Hub, behind a licence."""


def without_secrets(
    environment: Mapping[str, str], home: Home, keep: Iterable[str] = ()
) -> dict[str, str]:
    """The variables that hold no password: by their names, by the addresses in their values, and by
    those that the home's `stack.yaml` uses as passwords.

    Args:
        keep: names that the child needs although they hold a secret.
    """
    needed, named = set(keep), stack_variables(home)
    return {
        name: value
        for name, value in environment.items()
        if name in needed or not (name in named or _is_secret(name, value))
    }


def stack_variables(home: Home) -> set[str]:
    """Names of the variables that the home's `stack.yaml` takes passwords from."""
    with contextlib.suppress(OSError):
        return set(_REFERENCE.findall(home.stack_file.read_text("utf-8", errors="replace")))
    return set()


def _is_secret(name: str, value: str) -> bool:
    if _LOGIN_IN_ADDRESS.search(value):
        return True
    return bool(_NAMES.search(name)) and name not in _HARMLESS
