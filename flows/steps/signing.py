"""The flows' signatures: a key that has to be there before any work, and the step that uses it."""

from __future__ import annotations

from flows.run_step import run_step
from flows.settings.pipeline import Pipeline, Register
from merge_core.homes.home import Home
from merge_core.text.plain import plain_log
from tasks.progress import prefect_progress
from tasks.records import Registration
from tasks.sign import sign_task
from tasks.signing.keys import private_key
from tasks.signing.model_signature import require_signing

_log = plain_log("mergeflow")


def check_key(register_as: Register, home: Home) -> None:
    """Find a key that cannot be used now, rather than after the evaluations.

    Raises:
        MergeflowError: there is no such key, it is not this user's alone, its passphrase is
            missing, or the packages that sign are not installed.
    """
    if register_as.sign is None:
        return
    require_signing()
    private_key(home, register_as.sign)


def sign(pipeline: Pipeline, home: Home, registration: Registration) -> None:
    """Sign the version that was just registered, where the pipeline names a key."""
    register_as = pipeline.register_as
    if register_as.sign is None:
        return
    candidate = registration.candidate
    address = f"models:/{candidate.name}/{candidate.version}"
    uri = register_as.address(home)
    progress = prefect_progress(f"sign {candidate.name}")
    signed = run_step(
        sign_task, home, address, uri, register_as.sign, progress, subject=candidate.name
    )
    by = f"{signed.key} ({signed.key_id[:12]})"
    _log.info("%s is signed by %s%s", address, by, ", as before" if signed.already else "")
