"""CMA-ES that keeps no pickle: its state is computed anew from the numbers of the trials.

Optuna's sampler writes the optimizer into its database as a pickle, and reads it back at the next
trial. Which generation a trial belongs to is a number there, and what a generation comes to follows
from its trials, so nothing else has to be kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optuna._transform import _SearchSpaceTransform
from optuna.samplers import CmaEsSampler

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial


class ReplayedCmaEsSampler(CmaEsSampler):
    """Optuna's sampler without its pickles, for a study that maximises."""

    _transform: _SearchSpaceTransform
    _study: Study

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Parameters that are drawn together."""
        if search_space:
            self._study = study
            self._transform = _SearchSpaceTransform(
                search_space, transform_step=True, transform_0_1=True
            )
        return super().sample_relative(study, trial, search_space)

    def _split_optimizer_str(self, optimizer_str: str) -> dict[str, str]:
        """What is kept of the pickle: nothing."""
        return {}

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> Any:
        """The optimizer after every generation that is whole; None before the first."""
        begun = CmaEsSampler(seed=0)._init_optimizer(self._transform, self._study.direction)
        optimizer = None
        # In the order in which they ended: of several workers, the first to end were told.
        trials = sorted(completed_trials, key=lambda each: (each.datetime_complete, each.number))
        while True:
            generation = (optimizer or begun).generation
            members = self._get_solution_trials(trials, generation)[: begun.population_size]
            if len(members) < begun.population_size:
                return optimizer
            optimizer = optimizer or begun
            optimizer.tell(
                [
                    (self._transform.transform(each.params), -each.value)
                    for each in members
                    if each.value is not None
                ]
            )
