"""The command line: a module for each group of commands, each with its `add_commands`.

Public: `main`, the console script `mergeflow`. The top of `flows`: it may import every other room.
"""


def main() -> None:
    """The console script."""
    from flows.cli.program import main as program

    program()
