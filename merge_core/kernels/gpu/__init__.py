"""Merging on a GPU: copies that overlap with work, and kernels over stored patterns.

The methods' own torch expressions (`merge_core.methods`) run on any device. What is added for a GPU
changes no byte: page-locked copies and a queue of work for each worker (`runtime.gpu_transfers`),
Triton kernels for the hottest methods (`triton_kernels`), used where they give the bits that torch
gives on that very device (`runtime.gpu_self_check`), and sums in the order in which the CPU adds
(`reductions.gpu`). Public: `computation`.
"""
