"""Which checkpoints a merge has to beat: found, and evaluated, before the merge."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from flows.settings.pipeline import Pipeline
from flows.steps import merge as merging
from flows.steps.evaluating import Asked, score
from flows.steps.scores import Baseline, Inputs
from merge_core.errors import CheckpointError, RecipeError
from merge_core.homes.home import Home
from merge_core.recipes.loading import parse_recipe
from merge_core.records import SourceCheckpoint
from merge_core.text.plain import plain_log
from tasks.evaluation.evaluators import Evaluators
from tasks.evaluation.suite import Suite
from tasks.promotion.baselines import SPOKEN, ComparedWith
from tasks.records import EvaluationReport
from tasks.registry.champion import current_champion
from tasks.reports.names import distinct_names

_log = plain_log("mergeflow")


def check_baselines(pipeline: Pipeline) -> None:
    """Find baselines that cannot be had before any work.

    Raises:
        RecipeError: names the key.
    """
    if "best_expert" in pipeline.promote.baselines and not pipeline.evaluate.experts:
        raise RecipeError(
            "best_expert is the best of the merged models, and these are not evaluated",
            where="promote.baseline",
            mend="set evaluate.experts to true, or name another baseline",
        )


def evaluate_inputs(
    pipeline: Pipeline,
    suite: Suite,
    base: SourceCheckpoint,
    experts: Sequence[SourceCheckpoint],
    home: Home,
    beside: Path | None,
    evaluators: Evaluators,
    batch_size: int | None = None,
) -> Inputs:
    """Find and evaluate base, experts and all that a merge has to beat."""
    wanted = pipeline.promote.baselines
    found = {
        name: _found(name, pipeline, base, home, beside) for name in wanted if name != "best_expert"
    }
    judged = list(experts) if pipeline.evaluate.experts else []
    distinct = {base.digest: ("base", base)}
    distinct |= {
        each.digest: (name, each)
        for name, each in zip(distinct_names([e.reference for e in judged]), judged, strict=True)
    }
    for each in found.values():
        distinct.setdefault(each.source.digest, (each.name, each.source))
    against = {base.digest, *(each.source.digest for each in found.values())}
    reports = evaluate_all(pipeline, suite, distinct, against, home, evaluators, batch_size)
    if "best_expert" in wanted:
        from tasks.promotion.objective import best_of  # scipy is slow to import

        best = best_of([reports[each.digest] for each in judged], reports[base.digest])
        source = judged[best]
        _log.info("the best expert is %s", source.reference)
        found["best_expert"] = Baseline(SPOKEN["best_expert"], source)
        again = Asked(source, SPOKEN["best_expert"], "first")
        size = reports[source.digest].batch_size
        [reports[source.digest]] = score(pipeline, suite, [again], home, evaluators, size)
    first, *more = each_once([found[name] for name in wanted])
    origin = reports[base.digest] if first.source.digest != base.digest else None
    return Inputs(
        baseline=first,
        report=_called(reports[first.source.digest], first),
        others=tuple(
            ComparedWith(name=each.name, report=_called(reports[each.source.digest], each))
            for each in more
        ),
        experts=tuple(_called(reports[e.digest], Baseline("", e)) for e in judged),
        origin=origin,
    )


def evaluate_all(
    pipeline: Pipeline,
    suite: Suite,
    named: Mapping[str, tuple[str, SourceCheckpoint]],
    against: Collection[str],
    home: Home,
    evaluators: Evaluators,
    batch_size: int | None,
) -> dict[str, EvaluationReport]:
    """The evaluations of checkpoints, by digest as `named`.

    Args:
        against: digests of what the merge is compared with. These come from processes in which
            nothing was evaluated before; the others follow.
    """
    asked = [
        Asked(source, name, "first" if digest in against else "shared")
        for digest, (name, source) in named.items()
    ]
    scored = score(pipeline, suite, asked, home, evaluators, batch_size, then_another=True)
    return dict(zip(named, scored, strict=True))


def each_once(baselines: Sequence[Baseline]) -> list[Baseline]:
    """The baselines without those whose weights are there already. A champion that is one of those
    that stay counts as that one, which asks for more."""
    distinct: dict[str, Baseline] = {}
    for each in baselines:
        known = distinct.get(each.source.digest)
        if known is None or known.name == SPOKEN["champion"]:
            distinct[each.source.digest] = each
    return list(distinct.values())


def referenced(
    pipeline: Pipeline, reference: str, home: Home, beside: Path | None
) -> SourceCheckpoint:
    """A checkpoint that the rule names, on this disk and as transformers loads it."""
    alone = parse_recipe({"merge_method": "passthrough", "models": [{"model": reference}]})
    as_it_is = pipeline.model_copy(update={"recipe": alone})
    source = merging.resolve(as_it_is, home, beside).sources[reference]
    return merging.written_out(pipeline, source, home)


def champion(pipeline: Pipeline, home: Home, instead: str) -> SourceCheckpoint | None:
    """The champion on this disk; None when there is none, or its directory is gone.

    Args:
        instead: what stands in for it then, for the log.
    """
    uri = pipeline.register_as.address(home)
    address = current_champion(uri, str(pipeline.register_as.model))
    if address is None:
        _log.info("there is no champion yet: %s is compared with instead", instead)
        return None
    try:
        return referenced(pipeline, address, home, None)
    except CheckpointError as error:
        if "no such directory" not in error.what:
            raise
        _log.warning(
            "the champion %s is gone from %s: %s is compared with instead",
            address,
            error.where,
            instead,
        )
        return None


def _found(
    name: str, pipeline: Pipeline, base: SourceCheckpoint, home: Home, beside: Path | None
) -> Baseline:
    if name == "base":
        return Baseline("base", base)
    if name == "champion":
        serves = champion(pipeline, home, "the base")
        return Baseline("champion", serves) if serves else Baseline("base", base)
    return Baseline(name, referenced(pipeline, name, home, beside))


def _called(report: EvaluationReport, baseline: Baseline) -> EvaluationReport:
    """The same content may have been scored under another name."""
    return report.model_copy(update={"reference": baseline.source.reference})
