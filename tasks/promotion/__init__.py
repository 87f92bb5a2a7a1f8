"""The rule that decides whether a merged checkpoint replaces the served one, with its reasons.

Public: `rule.PromotionRule`, `decision.decide`, `approval`. Numbers in, a `Decision` out: it knows
no registry. The alias is moved by `registry.versions`.
"""
