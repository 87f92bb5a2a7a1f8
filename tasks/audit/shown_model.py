"""What MLflow's page of a model shows: facts of its checkpoint, and scores of its evaluations."""

from __future__ import annotations

import math
from collections.abc import Mapping

from merge_core.findings import printable
from merge_core.text.plain import plain
from tasks.audit import look_alikes
from tasks.audit.evidence import Evidence
from tasks.audit.report import Answers
from tasks.registry.client import TAG
from tasks.registry.models import KIND, facts_of_checkpoint

_CLOSE = 1e-9
_TAGS = frozenset(("digest", "path", "reference", "revision", "flavors", "loader", "retired"))
_OF_REGISTERED_MODELS = frozenset(("model", "champion", "pin"))
_REFERENCE = "reference"


def check_scores(evidence: Evidence, answers: Answers) -> None:
    """The scores are those of the evaluations that they name."""
    known: dict[str, tuple[bool, Mapping[str, float]]] = {
        each.run.info.run_id: (True, each.run.data.metrics) for each in evidence.evaluations
    }
    others = set()
    for metric in (evidence.model.metrics if evidence.model else None) or ():
        run_id = metric.run_id or ""
        if run_id not in known:
            run = evidence.run_named(run_id) if run_id else None
            ours = run is not None and run.data.tags.get(TAG + "kind") is not None
            known[run_id] = (ours or run is None, run.data.metrics if run is not None else {})
        ours, scores = known[run_id]
        said = scores.get(metric.key)
        if said is not None and not math.isclose(said, metric.value, rel_tol=_CLOSE, abs_tol=1e-12):
            answers.fails(
                f"the model's page shows {metric.key} {metric.value:.6g}, its evaluation {said:.6g}"
            )
        elif said is None and scores:
            answers.fails(
                f"the model's page shows {printable(metric.key)} {metric.value:.6g}, which the run"
                " that it names does not say"
            )
        elif not ours:
            others.add(str(metric.key))
    if others:
        answers.unknown(
            f"the model's page shows {', '.join(map(printable, sorted(others)))} of a run that"
            " mergeflow did not make"
        )


def check_facts(evidence: Evidence, answers: Answers) -> None:
    """Name, kind, parameters and tags are what mergeflow writes of this checkpoint."""
    model, checkpoint = evidence.model, evidence.checkpoint
    if model is None or checkpoint is None:
        return  # `way` and `description` say so
    if not str(model.name).endswith(f"-{checkpoint.short}"):
        answers.fails(f"the model is called {printable(model.name, 100)}, as no checkpoint is")
    answers.same("the model's kind", model.model_type, KIND, "mergeflow")
    said = dict(model.params or {})
    reference = model.tags.get(TAG + _REFERENCE)
    if _REFERENCE in said and len(said[_REFERENCE]) < 500 and reference is not None:
        by = "its parameter"
        answers.same("the model's reference", reference, plain(said[_REFERENCE]), by)
    look_alikes.known_tags(model.tags, _TAGS, (), "the model", answers)
    if not checkpoint.directory.is_dir() or checkpoint.adapter is not None:
        return
    made = facts_of_checkpoint(checkpoint)
    for name in sorted(said):
        if name not in made:
            answers.fails(f"the model's parameter {printable(name)} is none of mergeflow's")
        elif name != _REFERENCE:
            answers.same(f"the model's parameter {name}", said[name], made[name], "the checkpoint")


def check_names(evidence: Evidence, answers: Answers) -> None:
    """No tag of model or registered model, and no alias, looks like one of ours."""
    if evidence.model is not None:
        look_alikes.tags_of(evidence.model.tags, "the model", answers)
    registered = evidence.registry.client.get_registered_model(evidence.version.name)
    whose = "the registered model"
    look_alikes.tags_of(registered.tags, whose, answers)
    look_alikes.known_tags(registered.tags, _OF_REGISTERED_MODELS, ("history.",), whose, answers)
    look_alikes.aliases(registered.aliases, answers)
