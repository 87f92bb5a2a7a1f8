"""The Prefect tasks of the flows, a file each, and the rooms that do their work.

The files beside this one that are named by a verb hold the tasks; most are cached by content.
They, the room `caching`, `progress` and `retries` know Prefect, and nothing else here does.
`records` are the values that pass between tasks. Public: these files, `roles` and `units`.
"""

import merge_core as merge_core  # former names of modules are found from now on
