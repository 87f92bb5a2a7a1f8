"""Whether the Hugging Face Hub answers, and its refusals in words."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from merge_core.errors import CheckpointError, StepError
from merge_core.files.private import as_open_as

_PATIENCE = 3.0
"""Seconds that a connection may take. The Hub's client waits, and tries again, much longer."""


class HubUnreachableError(StepError):
    """The Hub did not answer, or asked for patience: worth another try."""


class HubAwayError(HubUnreachableError):
    """No connection to the Hub was made: most often there is no network."""


class NoRepositoryError(CheckpointError):
    """The Hub has no repository of this name, or none that this user may see."""


def require_connection(where: str) -> None:
    """Find out within seconds that the Hub cannot be reached at all.

    Args:
        where: the reference that is to be looked for there.

    Raises:
        HubAwayError: there is no connection to it.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        get_session().head(hub_address() or constants.ENDPOINT, timeout=_PATIENCE)
    except Exception as error:
        if not isinstance(error, OSError) and not _is_transport_failure(error):
            raise
        raise _unreachable(where, type(error).__name__, HubAwayError) from None


def hub_cache() -> Path:
    """The directory of the Hub's client."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def hub_address() -> str | None:
    """`$HF_ENDPOINT`; None for the public Hub."""
    return os.environ.get("HF_ENDPOINT")


def is_offline() -> bool:
    """Whether the user switched the network off for the Hub's client (HF_HUB_OFFLINE=1)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


@contextlib.contextmanager
def explained(where: str) -> Iterator[None]:
    """The Hub client's errors as ours, without their text, which may quote requests; its files as
    open as its cache, which several users may share."""
    from huggingface_hub import errors

    try:
        with as_open_as(hub_cache()):
            yield
    except errors.GatedRepoError:
        raise CheckpointError(
            "access to this repository must be asked for",
            where=where,
            mend="accept its conditions on the Hub, then `hf auth login` or set HF_TOKEN",
        ) from None
    except errors.RepositoryNotFoundError:
        raise NoRepositoryError(
            "there is no such repository on the Hub, and no such directory here",
            where=where,
            mend="check the spelling; for a private repository `hf auth login` or set HF_TOKEN;"
            " write ./NAME for a local directory",
        ) from None
    except errors.RevisionNotFoundError:
        raise CheckpointError(
            "the repository has no such branch, tag or commit", where=where
        ) from None
    except errors.RevisionResolutionError:
        raise _unreachable(where, "no answer") from None
    except errors.HFValidationError:
        raise CheckpointError("this is not a repository name", where=where) from None
    except (errors.SafetensorsParsingError, errors.NotASafetensorsRepoError):
        raise CheckpointError(
            "a weight file is damaged or not safetensors", where=where, mend="tell its publisher"
        ) from None
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        if isinstance(error, errors.OfflineModeIsEnabled) or is_offline():
            raise CheckpointError(
                "not downloaded yet, and the network is switched off (HF_HUB_OFFLINE)",
                where=where,
                mend="unset HF_HUB_OFFLINE once to download it",
            ) from None
        raise _unreachable(where, "no answer") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status == 429 or status >= 500 or status == 0:
            raise _unreachable(where, f"status {status}" if status else "no answer") from None
        raise CheckpointError(f"the Hub refused with status {status}", where=where) from None
    except OSError as error:
        raise _unreachable(where, type(error).__name__) from None
    except Exception as error:
        if _is_transport_failure(error):
            raise _unreachable(where, type(error).__name__) from None
        raise


def _is_transport_failure(error: BaseException) -> bool:
    """Whether the HTTP client lost its connection (its exceptions share a base of this name)."""
    return any(kind.__name__ == "TransportError" for kind in type(error).__mro__)


def _unreachable(
    where: str, said: str, kind: type[HubUnreachableError] = HubUnreachableError
) -> HubUnreachableError:
    return kind(
        f"there is no such directory here, and the Hub does not answer ({said})",
        where=where,
        mend="try again later; with HF_HUB_OFFLINE=1 and a commit (NAME@COMMIT), what was"
        " downloaded before is used",
    )
