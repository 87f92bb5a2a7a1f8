"""A merge method of one's own: task arithmetic in which no task vector is longer than the others.

    python examples/custom_method.py recipe.yaml out/

merges by a recipe that says `merge_method: capped_task_arithmetic`. For pipelines, whose processes
do not run this file, put the class into a package of yours and name it in its pyproject.toml:

    [project.entry-points."mergeflow.methods"]
    capped_task_arithmetic = "my_package.methods:CappedTaskArithmetic"
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Sequence

from merge_core.methods import register
from merge_core.methods.base import Block, Kernel, Method, TensorJob
from merge_core.methods.parameter import Parameter
from merge_core.methods.parts.model_statistics import WholeModelSums
from merge_core.reductions.sums import add_up
from merge_core.runtime.lazy_torch import torch  # torch itself, once it is used


@register
class CappedTaskArithmetic(Method):
    """theta_0 + sum_i tau_i * min(1, cap * median_j |tau_j| / |tau_i|) / n, for n models.

    |tau_i| is the norm of model i's whole task vector.
    """

    name = "capped_task_arithmetic"
    summary = "mean of task vectors, none longer than `cap` times the median one"
    paper = "an example"
    parameters = (Parameter("cap", "longest task vector, in medians", 1.0, low=0),)
    base = "required"

    def model_statistics(self, jobs: Sequence[TensorJob]) -> WholeModelSums:
        """What is learned of the whole model before its first tensor is merged."""
        return WholeModelSums(torch.square)

    def kernel(self, job: TensorJob) -> Kernel:
        """What merges one tensor."""
        return _Capped(job)


class _Capped(Kernel):
    """Holds a factor for each model; sees a tensor block by block, as float64."""

    def __init__(self, job: TensorJob) -> None:
        assert isinstance(job.model_statistics, WholeModelSums)
        lengths = [math.sqrt(square) for square in job.model_statistics.sums(job)]
        longest = float(job.parameters["cap"]) * statistics.median(lengths)
        self._factors = [min(1.0, longest / length) if length else 0.0 for length in lengths]

    def combine(self, block: Block) -> torch.Tensor:
        """The merged values of a block."""
        assert block.base is not None
        pairs = zip(block.task_vectors, self._factors, strict=True)
        return block.base + add_up([tau * factor for tau, factor in pairs]) / len(self._factors)


if __name__ == "__main__":
    from flows.cli.program import main

    sys.argv[1:] = ["merge", *sys.argv[1:]]
    main()
