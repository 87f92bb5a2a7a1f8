"""The documents that a suite's tasks ask, as MLflow's data sets: by digest, without their text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from merge_core.files.digests import digest_of
from tasks.records import EvaluationReport, TaskScore
from tasks.registry.facts import slug

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

_LONGEST_DIGEST = 36  # what MLflow takes
_SOURCE_TYPE = "suite"
_CONTEXT = "mlflow.data.context"


class DatasetName(NamedTuple):
    """What MLflow knows a data set by."""

    name: str
    digest: str


def dataset_of(score: TaskScore) -> DatasetName:
    """The documents of a task: the same in every evaluation that asked the same ones."""
    digest = digest_of(list(score.doc_ids))[:_LONGEST_DIGEST]
    return DatasetName(slug(score.task), digest)


def datasets_of(reports: Iterable[EvaluationReport]) -> list[DatasetInput]:
    """Every data set that evaluations read, each once."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    found: dict[DatasetName, DatasetInput] = {}
    for report in reports:
        for score in report.scores:
            named = dataset_of(score)
            source = {"suite": report.suite, "suite_digest": report.suite_digest}
            groups = {"groups": len(set(score.clusters))} if score.clusters else {}
            profile = {"documents": len(score.doc_ids), **groups}
            dataset = Dataset(
                named.name,
                named.digest,
                _SOURCE_TYPE,
                json.dumps({**source, "task": score.task}),
                profile=json.dumps(profile),
            )
            given = DatasetInput(dataset, [InputTag(_CONTEXT, "evaluation")])
            found.setdefault(named, given)
    return list(found.values())
