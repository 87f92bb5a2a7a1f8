"""The console script: see that the other packages are ours, then hand over to the command line."""

from __future__ import annotations

from mergeflow.own_packages import refuse_foreign_packages, refuse_overwritten_files


def main() -> None:
    """Run the command line."""
    refuse_foreign_packages()
    try:
        from flows.cli.program import main as command_line
    except Exception:  # a module that another distribution has replaced can fail in any way
        refuse_overwritten_files()
        raise
    command_line()
