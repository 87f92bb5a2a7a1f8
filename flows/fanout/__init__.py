"""Other workers that compute a merge: processes, a Prefect work pool, a Dask cluster.

Public: `choose.executor_of`, `merge_group.merge_shard_group`. It imports `settings` and
`run_step`.
"""
