"""What a caller asks for: merge, check, profile, task vectors, adapters, trajectories.

Public: `merge.merge`, `examine`, `check`, `profile.profile_task_vectors`, `task_vectors`,
`adapters`, `trajectory`. The top of the library: it may import every other room, and none imports
it.
"""
