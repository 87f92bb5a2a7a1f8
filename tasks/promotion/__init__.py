"""The rule that decides whether a merged checkpoint replaces the served one, with its reasons.

Public: `rule.PromotionRule`, `decision.decide`, `approval`. There are two gates: the one in
`decision` with its `reasons`, and the calibrated one in the files named so. Numbers in, a
`Decision` out: it knows no registry. The alias is moved by `registry.versions`.
"""
