"""The steps of the flows: each step file is a cached Prefect task, and the rooms do its work.

The files beside this one that are named by a verb are the steps; they alone know Prefect, with the
room `caching`. `records` are the values that pass between them. Public: the step files, `records`,
`roles` and `units`.
"""

import merge_core as merge_core  # former names of modules are found from now on
