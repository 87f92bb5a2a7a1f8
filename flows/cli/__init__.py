"""The command line. A module with `add_commands` holds a group of commands; others help them.

Public: `main`, the console script `mergeflow`. The top of `flows`: it may import every other room.
"""


def main() -> None:
    """The console script."""
    from flows.cli.program import main as program

    program()
