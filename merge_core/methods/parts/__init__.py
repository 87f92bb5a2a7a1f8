"""What several merge methods share: random bits, sparsifying, quantiles, sign election,
statistics of a whole model.

Methods import these parts; a part imports no method. Public: every module, for methods.
"""
