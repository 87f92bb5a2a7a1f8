"""Fused kernels: the hot methods compiled for the CPU, straight from stored bits to stored bits.

Every method is written once as torch expressions (`merge_core.methods`): that is its definition,
and runs on any device. For the methods most merges use, this package computes the same values, in
the same order of operations and to the same byte, in one loop over the stored 16- or 32-bit
patterns: nothing is widened in memory, and torch is not needed. Tests hold both equal.

Public: `computation`, the run of a plan's tensors by these kernels; `registry` lists the kernels.
"""
