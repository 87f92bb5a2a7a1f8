"""The same merge by several workers that share nothing but storage: a job, a coordinator, workers.

Public: `job.MergeJob`, `job.Executor`, `worker.merge_group`, `coordinator`. It imports `engine` and
what is below.
"""
