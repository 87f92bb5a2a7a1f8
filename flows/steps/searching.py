"""The trials of a search: asked for, merged, evaluated, told, until the budget is spent."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from flows.gpu_slot import device_slot
from flows.run_step import run_together
from flows.settings.search import SearchPipeline
from flows.steps import merge as merging
from merge_core.errors import (
    HomeError,
    MergeflowError,
    OutputError,
    StepError,
    UnreadableError,
)
from merge_core.files.locks import try_lock
from merge_core.files.private import open_private
from merge_core.homes.home import Home
from merge_core.progress import Progress, ProgressEvent
from merge_core.recipes.measurements import measurements
from merge_core.recipes.recipe import Recipe
from merge_core.records import SourceCheckpoint
from merge_core.text.plain import plain_log
from tasks.candidate import Measured, Workshop
from tasks.progress import prefect_progress
from tasks.records import EvaluationReport
from tasks.search.exhausted import why_exhausted
from tasks.search.first import Start, first_recipes
from tasks.search.page import change_said
from tasks.search.sampling import Asked, Study, left_to_chance
from tasks.search.selection import best
from tasks.search.soup import GreedySoup
from tasks.search.trial import Result, Trial

_log = plain_log("mergeflow")

_MOST_FAILURES = 5
"""At the beginning, without a candidate that could be evaluated."""


_OF_THE_MACHINE = (StepError, OutputError, HomeError, UnreadableError)
"""Faults that are no candidate's own: a full disk, memory that ran out, a process that was ended.
The same command tries such a candidate again."""


@dataclass
class Trials:
    """The trials of one search, in this process. Its workers share what they know."""

    search: SearchPipeline
    study: Study
    workshop: Workshop
    home: Home
    beside: Path | None
    base: EvaluationReport
    experts: Sequence[EvaluationReport]
    """What tells which documents are telling."""
    whole: bool
    """Every candidate is evaluated on every document."""
    soup: GreedySoup | None = None
    _rungs: tuple[tuple[int, ...], ...] | None = None
    _note: Callable[[Trial], None] = field(default=lambda trial: None)
    _get_ready: Callable[[], None] = field(default=lambda: None)
    _done: list[Trial] = field(default_factory=list)
    _reports: dict[int, EvaluationReport] = field(default_factory=dict)
    _put_off: set[int] = field(default_factory=set)
    """Numbers of trials that the same command tries again."""
    _begin_with: int = 0
    """So many candidates are not left to the sampler."""
    _is_exhausted: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, note: Callable[[Trial], None], get_ready: Callable[[], None]) -> list[Trial]:
        """Go on until the budget is spent; all trials in their order.

        Args:
            note: is told of each trial that is finished.
            get_ready: begins, and does not wait for, what follows the search.

        Raises:
            StepError: no candidate at all could be evaluated.
        """
        self.workshop.clear()
        self._done = self.study.trials()
        if self._done:
            _log.info("%d trials of this search are known already", len(self._done))
        self._note, self._get_ready = note, get_ready
        space = self.search.search.as_space
        if self.search.search.sampler == "cma-es" and (names := left_to_chance(space)):
            _log.warning(
                "warning: cma-es learns of ranges that every method has; it leaves %s to chance",
                ", ".join(names),
            )
        self._tell(prefect_progress("search"))
        if self.soup:
            self._grow(self.soup)
        else:
            self._begin_to_race(self.experts)
            self._side_by_side(self.search.starts, self.search.trials)
        if best(self._done) is None:
            raise self._nothing()
        if self._put_off:
            _log.warning(
                "warning: %d candidates could not be evaluated, and that was not their fault; the"
                " same command tries them again",
                len(self._put_off),
            )
        return sorted(self._done, key=lambda trial: trial.number)

    def kept(self, trials: Sequence[Trial]) -> list[Trial]:
        """Those that are finished for good."""
        return [trial for trial in trials if trial.number not in self._put_off]

    def recipe(self, candidate: Asked | Trial) -> Recipe:
        """The recipe of a candidate."""
        if self.soup:
            return self.soup.recipe(candidate.label, self._done)
        if candidate.label and not candidate.values:
            return first_recipes(self.search.recipe)[candidate.label]
        return self.search.search.as_space.recipe(self.search.recipe, candidate.values)

    def _side_by_side(self, starts: Sequence[Start], most: int | None) -> None:
        self.study.begin(starts)
        self._begin_with = len(starts)
        workers = self.search.evaluate.parallel
        run_together([partial(self._work, most)] * workers, workers)

    def _grow(self, soup: GreedySoup) -> None:
        """Each model alone, side by side; then one try after the other, since each follows from
        the one before."""
        most = self.search.trials or soup.most
        self._side_by_side(soup.alone, min(len(soup.alone), most))
        alone = [trial for trial in self._done if trial.label in {s.label for s in soup.alone}]
        known = [self.workshop.stored(trial.key) for trial in alone]
        self._begin_to_race([report for report in known if report])
        while not self._is_spent() and (start := soup.following(self._done)):
            self.study.begin([*(Start(trial.label) for trial in self._done), start])
            before = len(self._done)
            self._work(min(before + 1, most))
            if len(self._done) == before:
                return

    def _begin_to_race(self, experts: Sequence[EvaluationReport]) -> None:
        if not self.whole:
            from tasks.search.race import rungs_of  # scipy is slow to import

            self._rungs = rungs_of(self.base, experts)

    def _work(self, most: int | None) -> None:
        tell = prefect_progress("search")
        while not self._is_spent() and (asked := self.study.next(most)) is not None:
            if asked.number + 1 == (self.search.trials or 0):
                self._get_ready()
            trial = self._one(asked)
            with self._lock:
                self._done.append(trial)
                self._say(trial)
                self._tell(tell)
                if trial.number not in self._put_off:
                    self._note(trial)

    def _one(self, asked: Asked) -> Trial:
        recipe = None
        try:
            recipe = self.recipe(asked)
            measured = self._measured(recipe)
        except MergeflowError as error:
            why = f"{error.what}"
            failed = Result(outcome="failed", recipe=recipe.digest if recipe else "", why=why)
            if isinstance(error, _OF_THE_MACHINE) and not self.soup:
                self._put_off.add(asked.number)
                return Trial(
                    number=asked.number, values=asked.values, label=asked.label, result=failed
                )
            return self.study.tell(asked, failed)
        report = measured.report
        trial = self.study.tell(asked, self._result(recipe, measured), measured.key)
        if trial.result.outcome == "whole":
            self._reports = {asked.number: report, **self._reports}
        return trial

    def _measured(self, recipe: Recipe) -> Measured:
        if self.soup and self._is_base(recipe):
            return self.workshop.noted(recipe, self.base)
        calibration: dict[str, SourceCheckpoint] = {}
        if measurements(recipe):
            as_it_is = self.search.model_copy(update={"recipe": recipe})
            calibration = merging.calibrate(as_it_is, self.workshop.sources, self.home, self.beside)
        race = None
        if self._rungs and (incumbent := self._incumbent()):
            from tasks.search.race import Race  # scipy is slow to import

            race = Race(self.base, incumbent, self._rungs)
        with device_slot(self.search.evaluate.device):
            return self.workshop.measured(recipe, calibration, race)

    def _is_base(self, recipe: Recipe) -> bool:
        """Whether a recipe is no more than a copy of what candidates are compared with."""
        said = recipe.model_dump(exclude_defaults=True).keys()
        names = {entry.model for entry in recipe.models}
        digests = {self.workshop.sources[name].digest for name in names}
        return said <= {"merge_method", "models"} and digests == {self.base.checkpoint_digest}

    def _incumbent(self) -> EvaluationReport | None:
        from tasks.search.race import can_be_raced

        with self._lock:
            first = best(self._done)
            if first is None:
                return None
            report = self._reports.get(first.number) or self.workshop.stored(first.key)
            self._reports = {first.number: report} if report else {}
        return report if report and can_be_raced(report) else None

    def _result(self, recipe: Recipe, measured: Measured) -> Result:
        from tasks.search.race import result_of

        incumbent = self._incumbent() if measured.report.looks else None
        first = best(self._done)
        beside = (first, incumbent) if first and incumbent else None
        found = result_of(measured.report, self.base, beside)
        own = {"recipe": recipe.digest, "seconds": measured.seconds, "known": measured.known}
        return found.model_copy(update=own)

    def _is_spent(self) -> bool:
        budget = self.search.search.budget
        with self._lock:
            if self._nothing_is_new():
                return True
            paid = [trial.result for trial in self._done if not trial.result.known]
            minutes = sum(result.seconds.total for result in paid) / 60.0
            failed = [trial for trial in self._done if trial.result.outcome == "failed"]
            if len(failed) == len(self._done) >= _MOST_FAILURES:
                return True
        if budget.minutes and minutes / self.search.evaluate.parallel >= budget.minutes:
            return True
        return bool(budget.documents and sum(r.documents for r in paid) >= budget.documents)

    def _nothing_is_new(self) -> bool:
        """Whether the rest of the budget would buy nothing; says so once, if there is a rest."""
        number, most = len(self._done), self.search.trials
        if self.soup or number < self._begin_with or number == most:
            return False
        why = why_exhausted(self.search.search.as_space, self._done)
        if why and not self._is_exhausted:
            _log.info("the search ends here: %s", why)
        self._is_exhausted = bool(why)
        return self._is_exhausted

    def _say(self, trial: Trial) -> None:
        first = best(self._done)
        is_best = first is trial
        known = ", known" if trial.result.known else f", {trial.result.seconds.total:.1f} s"
        lost = ""
        if trial.result.outcome == "lost":
            lost = f", lost after {trial.result.documents} of {trial.result.of_documents} documents"
        _log.info(
            "trial %d: %s: %s%s%s%s",
            trial.number,
            trial.name,
            change_said(trial.result),
            lost,
            known,
            "; the best so far" if is_best else "",
        )

    def _tell(self, tell: Progress) -> None:
        total = self.search.trials or max(len(self._done), 1)
        tell(ProgressEvent("search", min(len(self._done), total), total, "trials"))

    def _nothing(self) -> StepError:
        whys = list(dict.fromkeys(trial.result.why for trial in self._done if trial.result.why))
        return StepError(
            f"none of {len(self._done)} candidates could be merged and evaluated",
            where=f"search {self.search.name}",
            details=[f"  - {why}" for why in whys[:_MOST_FAILURES]],
            mend="merge and evaluate one recipe of the space first, with `mergeflow run`",
        )


@contextmanager
def alone(home: Home, identity: str) -> Iterator[None]:
    """Hold a search: two processes would evaluate each other's trials.

    Raises:
        StepError: another one runs.
    """
    path = home.scratch / f"search-{identity[:16]}.lock"
    with os.fdopen(open_private(path), "wb") as file:
        if not try_lock(file.fileno(), path):
            raise StepError(
                "this search runs already, in another process of this home",
                where=str(path),
                mend="wait until it ends, or end it; then run the same command again",
            )
        yield
