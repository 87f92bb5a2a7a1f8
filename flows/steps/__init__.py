"""The steps of the flows: what each is cached by, what it shows, what is checked of its result.

Public: `merge`, `judging`, `average`, `dry_run`, `early_checks`. The flows call these in their
order. It imports `fanout` and what is below.
"""
