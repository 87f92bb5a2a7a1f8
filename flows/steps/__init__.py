"""The work of a flow around each Prefect task: its cache key, its report, its checks.

Public: `merge`, `judging`, `average`, `dry_run`, `early_checks`. The flows call these in their
order. It imports `fanout` and the rooms below.
"""
