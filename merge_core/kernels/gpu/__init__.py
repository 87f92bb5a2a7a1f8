"""Merging on a GPU: copies that overlap with work, and kernels over stored patterns.

The methods' own torch expressions (`merge_core.methods`) run on any device. What is added here for
a GPU changes no byte: page-locked copies and a queue of work for each worker (`transfers`), Triton
kernels for the hottest methods (`kernels`, `computation`), which are used where they have been seen
to give the bits that torch gives on that very device (`self_check`), and sums in the order in which
the CPU adds (`lane_sums`).
"""
