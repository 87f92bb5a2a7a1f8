"""Fast forms of the hot merge methods, equal to the methods' own definition to the last bit.

Public: `cpu.computation`, `gpu.computation`: each takes a planned tensor and gives a way to
compute it, or nothing where there is no kernel for it. It imports `planning` and what is below.
"""
