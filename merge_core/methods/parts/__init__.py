"""What several merge methods share: random bits, sparsifying, exact quantiles, sign election.

Methods import these parts; a part imports no method. Public: every module, for methods.
"""
