"""Where the command `mergeflow` begins. Installed, it also holds `configs` and `deployments`.

`flows` and `tasks` are names that other distributions use as well, so what runs first has a name
of its own. Nothing here is imported by the other packages.
Public: `command.main`, the entry point.
"""
