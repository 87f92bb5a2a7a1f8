"""An averaging configuration: which training run, which checkpoints, which average, and the rest of
a pipeline. The one model behind the YAML file, the command line and Prefect's parameter form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, model_validator

from flows.settings.pipeline import (
    Evaluate,
    Execution,
    Named,
    Pipeline,
    Register,
    Section,
    with_suite_beside,
)
from flows.settings.search import Search, SearchPipeline, halves_of
from merge_core.files.digests import digest_of
from merge_core.files.strict_yaml import load_yaml, validated
from merge_core.homes.home import Home
from merge_core.homes.variables import expand_variables
from merge_core.operations.trajectory.schedules import Decay, Schedule, schedule_weights
from merge_core.operations.trajectory.select import Choice
from merge_core.recipes.loading import parse_recipe
from merge_core.recipes.recipe import Recipe
from tasks.averaging.trajectory import TrainingRun
from tasks.evaluation.suite import Suite, load_suite, suite_digest
from tasks.promotion.baselines import OF_AN_AVERAGE
from tasks.promotion.rule import AFTERWARDS, PromotionRule
from tasks.search.soup import METHOD as SOUP_METHOD
from tasks.search.soup import SOUP
from tasks.sources.references import parse_plain

SOUP_SCHEDULE = "greedy_soup"


class Average(Section):
    """How the chosen checkpoints are averaged."""

    schedule: Schedule = Field(
        default="uniform",
        title="Schedule",
        description="uniform: the mean. ema: exponential moving average. wma: the i-th checkpoint"
        " counts i. wsm: weights that imitate a decay of the learning rate. swa: the running mean"
        " of every checkpoint so far, also of those that training has removed since. greedy_soup:"
        " the mean of those that make it better on the search half of the suite; the other half"
        " decides.",
        json_schema_extra={"position": 0},
    )
    beta: float = Field(
        default=0.8,
        ge=0.0,
        lt=1.0,
        title="EMA: beta",
        description="Share of the old average that each step keeps; the new checkpoint counts"
        " 1 - beta.",
        json_schema_extra={"position": 1},
    )
    decay: Decay = Field(
        default="1-sqrt",
        title="WSM: decay",
        description="The decay to imitate. linear is the same as the uniform mean.",
        json_schema_extra={"position": 2},
    )
    held_out: str | None = Field(
        default=None,
        title="Greedy soup: suite",
        description="Suite by which checkpoints are taken or left. Empty: half of the"
        " evaluation's own, and the other half decides. With one, the evaluation's own decides as"
        " a whole.",
        json_schema_extra={"position": 3},
    )
    out_dtype: str | None = Field(
        default=None,
        title="Stored as",
        description="float32, bfloat16 or float16. Empty: as the checkpoints are stored.",
        json_schema_extra={"position": 4},
    )


class AveragePromotion(PromotionRule):
    """When an average may be promoted: a pipeline's rule, with a baseline of the trajectory."""

    names: ClassVar[tuple[str, ...]] = OF_AN_AVERAGE

    baseline: str | tuple[str, ...] = Field(
        default="latest",
        title="Baseline",
        description="What the average has to beat: latest, the latest checkpoint of the run; best,"
        " the best single one of those averaged; champion, the version that serves (the latest"
        " checkpoint as long as there is none); or a checkpoint of your own. Of several it has to"
        " beat each, and falls back to the first.",
        json_schema_extra={"position": 0},
    )

    def as_of_a_merge(self) -> PromotionRule:
        """The same rule without the names that only an average knows.

        Checkpoints of one training are no experts: what was kept of each is told, nothing more.
        """
        values = self.model_dump(exclude={"baseline"})
        if self.gate == "calibrated":
            values = {"keep_of_experts": 0.0} | values | {"nights": self.shared_nights}
        return PromotionRule(**values)


class Retention(Section):
    """How many averages are kept."""

    keep: int | None = Field(
        default=5,
        ge=1,
        le=1000,
        title="Averages kept",
        description="How many registered averages without an alias are kept, counted back from the"
        " latest; the weights and the registered versions of older ones are removed, their runs in"
        " MLflow stay. Empty: all are kept.",
        json_schema_extra={"position": 0},
    )


class Averaging(Named):
    """A training run, its checkpoints to average, and what becomes of the average."""

    training: TrainingRun = Field(title="Training run", json_schema_extra={"position": 2})
    choose: Choice = Field(
        default_factory=Choice, title="Checkpoints", json_schema_extra={"position": 3}
    )
    average: Average = Field(
        default_factory=Average, title="Average", json_schema_extra={"position": 4}
    )
    evaluate: Evaluate = Field(title="Evaluate", json_schema_extra={"position": 5})
    promote: AveragePromotion = Field(
        default_factory=AveragePromotion,
        title="Promote",
        description="The rule that the average has to pass; else the baseline is kept.",
        json_schema_extra={"position": 6},
    )
    register_as: Register = Field(
        default_factory=Register,
        alias="register",
        title="Register",
        json_schema_extra={"position": 7},
    )
    retention: Retention = Field(
        default_factory=Retention, title="Retention", json_schema_extra={"position": 8}
    )
    execution: Execution = Field(
        default_factory=Execution, title="Execution", json_schema_extra={"position": 9}
    )

    @model_validator(mode="after")
    def _champion_has_a_name(self) -> Averaging:
        if "champion" in self.promote.baselines and self.register_as.model is None:
            raise ValueError(
                "promote.baseline: the champion is a version of a registered model; set"
                " register.model, or compare with latest or best"
            )
        return self

    def pipeline(self, recipe: Recipe) -> Pipeline:
        """The same as a pipeline around one recipe, for the steps that both flows share."""
        return Pipeline(
            name=self.name,
            description=self.description,
            recipe=recipe,
            evaluate=self.evaluate,
            promote=self.promote.as_of_a_merge(),
            register=self.register_as,
            execution=self.execution,
        )

    def soup_search(self, references: Sequence[str]) -> SearchPipeline:
        """The search that a greedy soup of checkpoints is.

        Args:
            references: the newest first.
        """
        models = [{"model": reference} for reference in references]
        pipeline = self.pipeline(self._recipe(SOUP_METHOD, models, f"soup of {self.name}"))
        fields = {each.alias or name: name for name, each in Pipeline.model_fields.items()}
        kept = {alias: getattr(pipeline, name) for alias, name in fields.items()}
        return SearchPipeline.model_validate({**kept, "search": Search(sampler=SOUP)})

    def weights(self, references: Sequence[str]) -> dict[str, float]:
        """What the schedule gives each of these checkpoints, the oldest first."""
        average = self.average
        weights = schedule_weights(
            average.schedule, len(references), beta=average.beta, decay=average.decay
        )
        return dict(zip(references, weights, strict=True))

    def recipe(self, weights: Mapping[str, float]) -> Recipe:
        """The recipe of a weighted average, from weights by reference, the oldest first.

        The newest checkpoint comes first: config and tokenizer are its.
        """
        models = [
            {"model": reference, "parameters": {"weight": weight}}
            for reference, weight in reversed(list(weights.items()))
            if weight > 0
        ]
        return self._recipe("linear", models, f"average of {self.name}")

    def _recipe(self, method: str, models: list[dict[str, Any]], where: str) -> Recipe:
        values: dict[str, Any] = {"merge_method": method, "models": models}
        if self.average.out_dtype:
            values["out_dtype"] = self.average.out_dtype
        return parse_recipe(values, where=where)

    def settings_digest(self, suite: Suite, held_out: Suite) -> str:
        """Digest of what decides the result, apart from the checkpoints that are there.

        Who has to approve, and what else becomes of a decision, is left out: it changes what may
        serve, not what there is to do.
        """
        kept: Any = {
            "training": {"run", "pattern"},
            "choose": True,
            "average": True,
            "promote": True,
            "register_as": {"model", "tracking_uri"},
        }
        return digest_of(
            {
                **self.model_dump(mode="json", include=kept, exclude={"promote": AFTERWARDS}),
                "suites": [suite_digest(suite), suite_digest(held_out)],
            }
        )


@dataclass(frozen=True)
class LoadedAveraging:
    """A configuration from a file, with the directory that its paths start from."""

    averaging: Averaging
    beside: Path


def load_averaging(path: Path) -> LoadedAveraging:
    """Read an averaging file.

    Raises:
        RecipeError: unreadable, not YAML, or with a mistake; names the YAML path of each.
    """
    beside = path.absolute().parent
    averaging = validated(Averaging, load_yaml(path), str(path))
    evaluate = with_suite_beside(averaging.evaluate, beside)
    average = averaging.average
    if average.held_out:
        chooses_by = evaluate.model_copy(update={"suite": average.held_out})
        suite = with_suite_beside(chooses_by, beside).suite
        average = average.model_copy(update={"held_out": suite})
    return LoadedAveraging(
        averaging.model_copy(update={"evaluate": evaluate, "average": average}), beside
    )


def load_suites(averaging: Averaging, home: Home) -> tuple[Suite, Suite]:
    """The documents of the decision, and those that a greedy soup is chosen by: without a word the
    two parts of one suite.

    Raises:
        RecipeError: no such suite, or one with a mistake in it.
    """
    suite = load_suite(expand_variables(averaging.evaluate.suite, home))
    if averaging.average.schedule != SOUP_SCHEDULE:
        return suite, suite
    held_out = averaging.average.held_out
    if held_out:
        return suite, load_suite(expand_variables(held_out, home))
    searching, deciding = halves_of(suite)
    return deciding, searching


def check_places(loaded: LoadedAveraging) -> None:
    """Find a mistyped path or suite at once, before any server is started.

    Raises:
        RecipeError: no such suite, or one with a mistake in it.
        CheckpointError: the training run leads nowhere.
    """
    home = Home.discover()
    load_suites(loaded.averaging, home)
    parse_plain(loaded.averaging.training.run, loaded.beside, home)
