"""A search's trials in Optuna's database: which candidate comes next, and what came of each.

A search that was killed goes on in the same trials. What a sampler draws is seeded by the search's
seed, the trial's number and the knob, so it does not matter in which process a trial was begun. Of
a trial that was begun and not finished, what was drawn is kept, and the rest is drawn as it would
have been. With several workers the order in which trials end decides what samplers know.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from merge_core.files.digests import canonical_json
from merge_core.homes.home import Home
from tasks.search.first import Start
from tasks.search.space import METHOD, Knob, Space, Value
from tasks.search.storage import at_work, holder, to_read, to_write
from tasks.search.trial import Result, Trial

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.storages import RDBStorage

Sampler = Literal["grid", "random", "tpe", "cma-es", "nsga-ii", "greedy-soup"]

_TRIAL, _LABEL, _ABOUT, _NAME = "trial", "label", "about", "name"
_FIXED = "fixed_params"
"""What Optuna calls the values of a candidate that no sampler draws."""


@dataclass(frozen=True)
class Asked:
    """A candidate that is to be evaluated."""

    number: int
    values: dict[str, Value]
    label: str
    token: Any = field(repr=False, compare=False)
    """Optuna's own name for the trial."""


class Study:
    """One search. Safe to use from several threads; one process at a time."""

    def __init__(
        self,
        home: Home,
        name: str,
        identity: str,
        about: dict[str, Any],
        *,
        space: Space,
        sampler: Sampler,
        seed: int,
        objectives: int = 1,
        address: str | None = None,
    ) -> None:
        """Open a search, or begin it.

        Args:
            identity: digest of all that decides what its trials are.
            about: kept with it, for whoever looks at it later.
            objectives: how many numbers a trial is told as; all are to be large.
            address: of a PostgreSQL for new searches, in place of the home's `search.db`.

        Raises:
            StepError: PostgreSQL does not answer, or refuses something.
        """
        own = f"{name}/{identity[:16]}"
        self._home, self._address = home, holder(home, address, own)
        storage = to_write(home, self._address)
        import optuna

        self._optuna = optuna
        self._space, self._kind, self._seed = space, sampler, seed
        self._lock = threading.Lock()
        with self._at_work():
            self._study = optuna.create_study(
                storage=storage,
                study_name=own,
                directions=["maximize"] * objectives,
                load_if_exists=True,
            )
            if _NAME not in self._study.user_attrs:
                self._study.set_user_attr(_ABOUT, about)
                self._study.set_user_attr(_NAME, name)
            known = self._study.get_trials(False)
            running = [each for each in known if each.state == optuna.trial.TrialState.RUNNING]
            for each in running:
                if _TRIAL in each.user_attrs:  # killed between what was kept and what was told
                    self._told(each.number, Trial.model_validate(each.user_attrs[_TRIAL]))
        unfinished = (each for each in running if _TRIAL not in each.user_attrs)
        self._left = sorted(unfinished, key=lambda each: each.number)
        self._starts: Mapping[str, Start] = {}
        # A search goes on with the ranges that it began with, whatever made them: CMA-ES draws
        # together only what has the same range in every trial.
        self._ranges = {name: each.distributions[name] for each in known for name in each.params}

    @property
    def id(self) -> str:
        """Its name in the database."""
        return str(self._study.study_name)

    def begin(self, starts: Sequence[Start]) -> None:
        """Begin with these candidates, as far as an attempt before did not."""
        with self._lock:
            self._starts = {_key(each.label, each.values): each for each in starts}

    def next(self, most: int | None) -> Asked | None:
        """The next candidate; None when there are as many trials as there may be."""
        state = self._optuna.trial.TrialState
        with self._lock, self._at_work():
            left = self._left.pop(0) if self._left else None
            known = self._study.get_trials(False)
            waiting = [each.number for each in known if each.state == state.WAITING]
            number = left.number if left else min(waiting, default=len(known))
            if most is not None and number >= most:
                return None
            begun = next((each for each in known if each.number == number), None)
            fixed = begun.system_attrs.get(_FIXED) if begun else None
            if not begun and (start := _first_new(self._starts, known)):
                fixed = start.values
                self._study.enqueue_trial(fixed, user_attrs={_LABEL: start.label})
            self._study.sampler = self._sampler(number, "")
            if left:
                trial = self._optuna.trial.Trial(self._study, left._trial_id)
            else:
                trial = self._study.ask()
            label = trial.user_attrs.get(_LABEL, "")
            if label and not fixed:
                return Asked(number, {}, label, trial)
            if fixed is None:
                _ = trial.relative_params  # drawn together, before any is kept
            return Asked(number, self._drawn(trial, number), label, trial)

    def tell(self, asked: Asked, result: Result, key: str = "") -> Trial:
        """Keep what came of a candidate."""
        values, label = asked.values, asked.label
        trial = Trial(number=asked.number, values=values, label=label, result=result, key=key)
        with self._lock, self._at_work():
            asked.token.set_user_attr(_TRIAL, trial.model_dump(mode="json"))
            self._told(asked.token, trial)
        return trial

    def _told(self, token: Any, trial: Trial) -> None:
        """Let samplers know what came of a candidate.

        Args:
            token: Optuna's own name for the trial, or its number.
        """
        numbers = list(trial.result.tasks.values())
        if self._is_single and trial.result.objective is not None:
            numbers = [trial.result.objective]
        self._study.sampler = self._sampler(trial.number, "told")
        if trial.values and numbers:
            self._study.tell(token, numbers)
        else:
            self._study.tell(token, state=self._optuna.trial.TrialState.FAIL)

    def trials(self) -> list[Trial]:
        """All that are finished, in their order."""
        with self._at_work():
            return _trials(self._study)

    def _at_work(self) -> AbstractContextManager[None]:
        return at_work(self._home, self._address)

    @property
    def _is_single(self) -> bool:
        return len(self._study.directions) == 1

    def _drawn(self, trial: Any, number: int) -> dict[str, Value]:
        values: dict[str, Value] = {}
        branches = dict(self._space.branches)
        methods = [name for name in branches if name]
        if methods:
            self._study.sampler = self._sampler(number, METHOD)
            values[METHOD] = trial.suggest_categorical(METHOD, methods)
        knobs = branches[str(values[METHOD]) if methods else None]
        for name, knob in knobs.items():
            self._study.sampler = self._sampler(number, name)
            drawn = trial._suggest(name, self._ranges.get(name) or _distribution(knob))
            values[name] = drawn if knob.choices else knob.value(float(drawn))
        return values

    def _sampler(self, number: int, name: str) -> BaseSampler:
        from optuna import samplers

        digest = hashlib.sha256(f"{self._seed}/{number}/{name}".encode()).digest()
        seed = int.from_bytes(digest[:4])
        if self._kind == "tpe":
            return samplers.TPESampler(seed=seed)
        if self._kind == "cma-es":
            from tasks.search.replayed_cma_es import ReplayedCmaEsSampler

            return ReplayedCmaEsSampler(seed=seed, warn_independent_sampling=False)
        if self._kind == "nsga-ii":
            return samplers.NSGAIISampler(seed=seed, population_size=16)
        return samplers.RandomSampler(seed=seed)


def left_to_chance(space: Space) -> list[str]:
    """What CMA-ES draws at random: all but ranges that every method has."""
    branches = [knobs for _, knobs in space.branches]
    names = list(dict.fromkeys(name for knobs in branches for name in knobs))
    together = [
        name
        for name in names
        if all(
            name in each and not each[name].choices and each[name].count != 1 for each in branches
        )
    ]
    return [*([METHOD] if len(branches) > 1 else []), *(n for n in names if n not in together)]


@dataclass(frozen=True)
class KeptSearch:
    """A search in the database, to look at."""

    id: str
    name: str
    about: dict[str, Any]
    trials: list[Trial]


def kept_searches(home: Home, address: str | None = None) -> list[KeptSearch]:
    """All searches of a home, the latest of each database last.

    Args:
        address: of a PostgreSQL that has searches, too.

    Raises:
        StepError: PostgreSQL does not answer.
    """
    own = to_read(home)
    with at_work(home, None):
        found = [] if own is None else _kept(own)
    if address is None:
        return found
    theirs = to_write(home, address)
    with at_work(home, address):
        return found + _kept(theirs)


def importances(home: Home, study: str, address: str | None = None) -> dict[str, float]:
    """How much of the differences between trials each knob explains, from 0 to 1; nothing where
    there are too few trials to tell."""
    import optuna

    place = holder(home, address, study)
    storage = to_write(home, place)
    with at_work(home, place):
        known = optuna.load_study(study_name=study, storage=storage)
        if len(known.directions) > 1:
            return {}
        try:
            evaluator = optuna.importance.PedAnovaImportanceEvaluator()
            return optuna.importance.get_param_importances(known, evaluator=evaluator)
        except (ValueError, RuntimeError):  # fewer than two trials, or all values alike
            return {}


def _kept(storage: RDBStorage) -> list[KeptSearch]:
    import optuna

    found = []
    for name in optuna.get_all_study_names(storage):
        study = optuna.load_study(study_name=name, storage=storage)
        attributes = study.user_attrs
        if _NAME in attributes:
            about = attributes[_ABOUT]
            found.append(KeptSearch(name, attributes[_NAME], about, _trials(study)))
    return found


def _first_new(starts: Mapping[str, Start], known: Sequence[Any]) -> Start | None:
    """The first candidate to begin with that is no trial yet."""
    queued = {
        _key(each.user_attrs.get(_LABEL, ""), each.system_attrs[_FIXED])
        for each in known
        if _FIXED in each.system_attrs
    }
    return next((start for key, start in starts.items() if key not in queued), None)


def _key(label: str, values: Mapping[str, Value]) -> str:
    return canonical_json([label, values]).decode()


def _trials(study: Any) -> list[Trial]:
    return [
        Trial.model_validate(each.user_attrs[_TRIAL])
        for each in study.get_trials(False)
        if _TRIAL in each.user_attrs
    ]


def _distribution(knob: Knob) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if knob.choices:
        return CategoricalDistribution(knob.choices)
    steps = knob.steps
    if steps:  # Optuna compares decimals, too: these fit each other
        return FloatDistribution(steps.number(0), steps.number(-1), step=float(steps.step))
    return FloatDistribution(float(knob.low or 0.0), float(knob.high or 0.0), log=knob.log)
