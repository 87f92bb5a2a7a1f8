"""Child processes: they run a model, a suite or a part of a merge, and none outlives its work.

Public: `child.run_child`, `own_python.module_command`, `merge.Processes`. It imports the library.
"""
