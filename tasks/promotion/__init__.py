"""The rule that decides whether a merged checkpoint replaces the served one, with its reasons.

Numbers in, a `Decision` out: the room knows no registry. `decision.decide` takes one of two gates,
the calibrated one (`calibrated`, its keys `calibrated_keys`, its sentences `calibrated_reasons`,
`task_reasons`, `mean_reasons`) or the former one (`former`, `rule`, `former_reasons`).
`registry.register` moves the alias.
Public: `rule.PromotionRule`, `decision.decide`, `approval`.
"""
