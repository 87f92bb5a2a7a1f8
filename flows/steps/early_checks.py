"""Finds, before any work, rules and addresses that would fail after hours."""

from __future__ import annotations

from pathlib import Path

from flows.settings.pipeline import Pipeline, Register
from flows.steps.baselines import check_baselines
from flows.steps.signing import check_key
from merge_core.errors import RecipeError
from merge_core.homes.home import Home
from merge_core.homes.variables import expand_variables
from merge_core.text.plain import plain_log
from tasks.calibration.measure import check_data
from tasks.evaluation.suite import Suite, load_suite
from tasks.promotion.decision import check_tasks
from tasks.promotion.rule import FORMER_GATE, PromotionRule
from tasks.registry.client import RegistryUnreachableError, check_address

_log = plain_log("mergeflow")


def suite_of(pipeline: Pipeline, home: Home) -> Suite:
    """The suite that a pipeline names.

    Raises:
        RecipeError: there is none, or it says something that cannot be.
    """
    return load_suite(expand_variables(pipeline.evaluate.suite, home))


def check_pipeline(pipeline: Pipeline, suite: Suite, home: Home, beside: Path | None) -> None:
    """Every check of a pipeline that needs no checkpoint.

    Args:
        suite: what decides.

    Raises:
        MergeflowError: the fault at which a run of this pipeline would stop.
    """
    check_rule(pipeline.promote, suite)
    check_baselines(pipeline)
    check_registry(pipeline.register_as, home)
    check_key(pipeline.register_as, home)
    check_data(pipeline.recipe, beside)


def check_rule(rule: PromotionRule, suite: Suite) -> None:
    """Find a rule for a task that does not exist now, rather than after the evaluations; and say
    which gate decides where it is the former one.

    Raises:
        RecipeError: the rule names a task that the suite does not have.
    """
    if (rule.looks or 1) > 1 and suite.settings.repeats > 1:
        raise RecipeError(
            "the suite asks for several answers to each document, and the rule for an evaluation"
            " that may stop early: both at once do not work",
            where=f"suite '{suite.name}': settings.repeats, and promote.looks",
            mend="leave out settings.repeats in the suite, or promote.looks in the pipeline",
        )
    check_tasks(rule, [task.task for task in suite.tasks], suite.name)
    if rule.gate == "former":
        _log.info("%s", FORMER_GATE)


def check_registry(register_as: Register, home: Home) -> None:
    """Find an address where nothing can be registered now, rather than after the evaluations.

    A server that does not answer may do so when it is needed: that is only said.

    Raises:
        MergeflowError: the address is not one that can work, or its local database is damaged.
    """
    if register_as.model is None:
        return
    try:
        check_address(register_as.address(home), writing=True)
    except RegistryUnreachableError as error:
        _log.warning(
            "warning: %s: %s; this run goes on, and needs an answer there at the latest when it"
            " registers",
            error.where,
            error.what,
        )
