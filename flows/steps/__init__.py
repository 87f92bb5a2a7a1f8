"""What a flow does around each Prefect task: its cache key, what is shown and checked of it.

Public: `merge`, `judging`, `average`, `dry_run`, `early_checks`. The flows call these in their
order. It imports `fanout` and what is below.
"""
