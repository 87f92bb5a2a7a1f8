"""What every tensor of the result will be made of, decided before the first byte is computed.

Public: `plan.make_plan`, `explain.explain`, `merged_tensor.MergedTensor`. It imports
`verification` and what is below, and it writes nothing.
"""
