"""Methods on the spectrum of whole matrices, all in float64: a method a module.

`algebra` and `kernel` are what they share. Public: `algebra`, which the post-steps use too.
"""
