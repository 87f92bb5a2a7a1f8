"""A search: a pipeline, and what of its recipe may change within which budget. The one model behind
the YAML file, the command line and Prefect's parameter form.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from flows.settings.pipeline import LoadedPipeline, Pipeline, Section, load_pipeline
from merge_core.errors import RecipeError
from merge_core.files.digests import digest_of
from merge_core.records import SourceCheckpoint
from tasks.evaluation.suite import Split, Suite, suite_digest
from tasks.search.first import Start, starts
from tasks.search.sampling import Sampler
from tasks.search.soup import SOUP, GreedySoup, check_soup
from tasks.search.space import Knobs, MethodChoice, Space, checked_names
from tasks.search.space_check import check_space

_TRIALS = 30


class Budget(Section):
    """When a search has looked enough: at the first of these that is reached."""

    trials: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        title="Trials",
        description=f"So many candidates. With nothing said: {_TRIALS}, or all points of a grid.",
        json_schema_extra={"position": 0},
    )
    minutes: float | None = Field(
        default=None,
        gt=0.0,
        le=60 * 24 * 30,
        title="Minutes",
        description="So long merging and evaluating candidates, earlier attempts counted.",
        json_schema_extra={"position": 1},
    )
    documents: int | None = Field(
        default=None,
        ge=1,
        title="Documents",
        description="So many documents evaluated, of all candidates together.",
        json_schema_extra={"position": 2},
    )


class Search(Section):
    """What may change, who chooses, how much it may cost."""

    space: Knobs = Field(
        default_factory=dict,
        title="Space",
        description="By parameter: a range {from: 0.1, to: 0.9, step: 0.1}, or a list of choices."
        " weight (or alpha): of every model. models[0].weight, parameters.t[1]: one place.",
        json_schema_extra={"position": 0},
    )
    methods: tuple[MethodChoice, ...] = Field(
        default=(),
        title="Methods",
        description="Merge methods to choose from, each with parameters of its own. Empty: the"
        " recipe's method.",
        json_schema_extra={"position": 1},
    )
    sampler: Sampler = Field(
        default="tpe",
        title="Sampler",
        description="grid: every combination. random. tpe: near what was good so far. cma-es: for"
        " numbers alone. nsga-ii: several tasks at once, a front in place of a best."
        " greedy-soup: the mean of those models that make it better; it has no space.",
        json_schema_extra={"position": 2},
    )
    budget: Budget = Field(
        default_factory=Budget, title="Budget", json_schema_extra={"position": 3}
    )
    full: bool = Field(
        default=False,
        title="Every document",
        description="Evaluate each candidate on every search document, also where it has certainly"
        " lost against the best before.",
        json_schema_extra={"position": 4},
    )
    halves: float = Field(
        default=0.5,
        gt=0.0,
        lt=1.0,
        title="Share for searching",
        description="Of the suite's groups of documents, where the suite says no split. The others"
        " decide, and no candidate is chosen by them.",
        json_schema_extra={"position": 5},
    )
    seed: int = Field(
        default=0,
        ge=0,
        lt=1 << 31,
        title="Seed",
        description="Of the sampler.",
        json_schema_extra={"position": 6},
    )

    _names = field_validator("space")(checked_names)

    @model_validator(mode="after")
    def _something_changes(self) -> Self:
        if self.sampler == SOUP:
            if self.space or self.methods:
                raise ValueError("a greedy soup chooses models, not parameters; take the space out")
            return self
        if not self.space and not self.methods:
            raise ValueError(
                "the space is empty; name a parameter, as in"
                " `weight: {from: 0.1, to: 0.9, step: 0.1}`"
            )
        names = [method.name for method in self.methods]
        if len(set(names)) < len(names):
            raise ValueError("methods: a method is listed twice")
        if self.sampler == "grid" and self.as_space.size is None:
            raise ValueError("a grid needs a `step` in each range, or a list of choices")
        return self

    @property
    def as_space(self) -> Space:
        """What may change."""
        return Space(knobs=self.space, methods=self.methods)


class SearchPipeline(Pipeline):
    """A pipeline whose recipe is searched for."""

    search: Search = Field(title="Search", json_schema_extra={"position": 10})

    @property
    def starts(self) -> list[Start]:
        """The candidates that are not left to the sampler."""
        if self.soup:
            return self.soup.alone
        if self.search.sampler == "grid":
            return [Start(values=point) for point in self.search.as_space.points() or ()]
        return starts(self.search.as_space, self.recipe)

    @property
    def trials(self) -> int | None:
        """How many candidates at most; None where time or documents end the search."""
        budget = self.search.budget
        if self.search.sampler == "grid":
            points = len(self.starts)
            return min(points, budget.trials or points)
        if self.soup:
            return min(self.soup.most, budget.trials or self.soup.most)
        return budget.trials or (None if budget.minutes or budget.documents else _TRIALS)

    @property
    def soup(self) -> GreedySoup | None:
        """The candidates of a greedy soup, if the search is one."""
        return GreedySoup(self.recipe) if self.search.sampler == SOUP else None

    def check_space(self) -> None:
        """See that the recipe takes what the search may try.

        Raises:
            RecipeError: it does not; names the key.
        """
        if self.soup:
            check_soup(self.recipe)
        else:
            if self.search.sampler == "grid":
                self.search.as_space.points()  # not too many
            check_space(self.search.as_space, self.recipe)

    def halves(self, suite: Suite) -> tuple[Suite, Suite]:
        """The documents to search by, and those that decide."""
        return halves_of(suite, self.search.halves)

    def identity(self, sources: dict[str, SourceCheckpoint], suite: Suite) -> str:
        """Digest of all that decides what the trials are: not the budget, nor the rule."""
        search = self.search.model_dump(mode="json", by_alias=True, exclude={"budget"})
        return digest_of(
            {
                "search": search,
                "recipe": self.recipe.digest,
                "sources": {name: source.digest for name, source in sources.items()},
                "suite": suite_digest(suite),
                "device": self.evaluate.device,
            }
        )


def halves_of(suite: Suite, share: float = 0.5) -> tuple[Suite, Suite]:
    """The documents to search by, and those that decide; as the suite splits them, if it does.

    Args:
        share: of the groups, for searching.
    """
    split = suite.split or Split(search=share)
    of_both = suite.model_copy(update={"split": split, "part": "decide"})
    return of_both.model_copy(update={"part": "search"}), of_both


def load_search(path: Path) -> tuple[SearchPipeline, Path]:
    """Read a search file; the search, and the directory that its checkpoint paths start from.

    Raises:
        RecipeError: unreadable, not YAML, or with a mistake; names the YAML path of each.
    """
    loaded: LoadedPipeline = load_pipeline(path, SearchPipeline)
    pipeline = loaded.pipeline
    assert isinstance(pipeline, SearchPipeline)
    try:
        pipeline.check_space()
    except RecipeError as error:
        place = f"{path}: {error.where}" if error.where else str(path)
        raise RecipeError(error.what, where=place, mend=error.mend, details=error.details) from None
    return pipeline, loaded.beside
