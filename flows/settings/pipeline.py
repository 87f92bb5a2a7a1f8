"""A pipeline: one merge, how it is judged, when it is promoted, where it is registered.

The one model behind the YAML file, the command line and Prefect's parameter form.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from merge_core.errors import RecipeError
from merge_core.files.strict_yaml import SaidInLines, load_yaml, validated
from merge_core.homes.home import Home
from merge_core.homes.variables import expand_variables, place_of
from merge_core.recipes.loading import load_recipe, parse_recipe
from merge_core.recipes.recipe import Recipe
from tasks.calibration.measure import check_data
from tasks.evaluation.suite import load_suite
from tasks.promotion.rule import PromotionRule
from tasks.registry.client import default_tracking_uri, strip_credentials
from tasks.sources.references import parse_reference
from tasks.units import read_size

_DEVICE = r"^(auto|cpu|cuda(:[0-9]+)?)$"
_DASK = r"^(local|(tcp|tls|ucx|wss?)://.+)$"
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$"


def _device(value: str) -> str:
    if not re.fullmatch(_DEVICE, value):
        raise ValueError(f"'{value}' is no device; use auto, cpu, cuda or cuda:N")
    return value


Device = Annotated[str, AfterValidator(_device), Field(json_schema_extra={"pattern": _DEVICE})]


def _shard_size(value: str) -> str:
    read_size(value)
    return value


ShardSize = Annotated[str, AfterValidator(_shard_size)]


class Section(BaseModel):
    """A part of a configuration: immutable, strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Evaluate(Section):
    """How checkpoints are scored."""

    suite: str = Field(
        title="Suite",
        description="A suite directory, its suite.yaml, or the name of a shipped suite. A path is"
        " looked for beside the pipeline file, then in the current directory.",
        min_length=1,
        json_schema_extra={"position": 0},
    )
    experts: bool = Field(
        default=True,
        title="Evaluate the experts too",
        description="Also score every model that is merged, to see what was kept of each.",
        json_schema_extra={"position": 1},
    )
    device: Device = Field(
        default="auto",
        title="Device",
        description="auto, cpu, cuda or cuda:N.",
        json_schema_extra={"position": 2},
    )
    parallel: int = Field(
        default=1,
        ge=1,
        le=64,
        title="Evaluations at a time",
        description="How many checkpoints are scored side by side on the CPU. Each takes the memory"
        " of a whole model. A GPU scores one at a time.",
        json_schema_extra={"position": 3},
    )
    keep_documents: bool | None = Field(
        default=None,
        title="Keep the documents",
        description="Keep the text of the suite's documents in MLflow, wherever they are from, and"
        " not only digests. Empty: if they all lie in the suite's own directory.",
        json_schema_extra={"position": 4},
    )


class Register(Section):
    """Where the result is recorded."""

    model: str | None = Field(
        default=None,
        title="Registered model",
        description="Name in MLflow's model registry; empty: the merge is not registered.",
        pattern=NAME,
        json_schema_extra={"position": 0},
    )
    experiment: str = Field(
        default="mergeflow",
        title="Experiment",
        description="MLflow experiment that holds the runs.",
        min_length=1,
        max_length=200,
        json_schema_extra={"position": 1},
    )
    tracking_uri: str | None = Field(
        default=None,
        title="MLflow address",
        description="http://host:5000, or sqlite:////absolute/mlflow.db. Empty:"
        " MLFLOW_TRACKING_URI, else the embedded database.",
        json_schema_extra={"position": 2},
    )
    note_user: bool = Field(
        default=False,
        title="Note who ran it",
        description="Keep the names of the user and of the machine in the run's lock.json.",
        json_schema_extra={"position": 3},
    )
    sign: str | None = Field(
        default=None,
        title="Key to sign with",
        description="A name of `mergeflow keys list`, or the absolute path of a private key. Empty:"
        " the result is not signed.",
        min_length=1,
        max_length=4096,
        json_schema_extra={"position": 4},
    )
    serve: bool = Field(
        default=False,
        title="Link to the champion",
        description="Let the link serving/NAME in the data directory lead to the champion, for"
        " servers that read a directory.",
        json_schema_extra={"position": 5},
    )

    @model_validator(mode="after")
    def _has_a_version(self) -> Register:
        if self.sign is not None and self.model is None:
            raise ValueError("sign: what is signed is a registered version; set model too")
        if self.serve and self.model is None:
            raise ValueError("serve: the link follows a registered model's alias; set model too")
        return self

    @field_validator("tracking_uri")
    @classmethod
    def _without_credentials(cls, value: str | None) -> str | None:
        """Prefect keeps the parameters of every run: no password may be among them."""
        if value and strip_credentials(value) != value:
            raise ValueError(
                "a password in a pipeline would be kept with every run of it; set"
                " MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment, or the"
                " whole address as MLFLOW_TRACKING_URI"
            )
        return value

    def address(self, home: Home) -> str:
        """Of the MLflow that the result is recorded in."""
        return self.tracking_uri or default_tracking_uri(home)


class ScaleOut(Section):
    """Which workers compute the merge, to the same bytes: one of these, or the run itself."""

    processes: int | None = Field(
        default=None,
        ge=1,
        le=256,
        title="Processes",
        description="This many processes on the machine of the run.",
        json_schema_extra={"position": 0},
    )
    work_pool: str | None = Field(
        default=None,
        min_length=1,
        title="Work pool",
        description="A Prefect work pool; its workers share the storage.",
        json_schema_extra={"position": 1},
    )
    dask: str | None = Field(
        default=None,
        pattern=_DASK,
        title="Dask cluster",
        description="tcp://host:8786 of a scheduler whose workers share the storage; or local.",
        json_schema_extra={"position": 2},
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> ScaleOut:
        chosen = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} exclude each other; keep one")
        return self


class Execution(Section):
    """How the merge itself is computed. Nothing here changes the values of the result."""

    device: Device = Field(
        default="auto",
        title="Device",
        description="auto, cpu, cuda or cuda:N.",
        json_schema_extra={"position": 0},
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        le=256,
        title="Threads",
        description="Empty: one for each processor, at most 16. With workers: of each of them.",
        json_schema_extra={"position": 1},
    )
    scan_weights: bool = Field(
        default=True,
        title="Look for NaN first",
        description="Read all inputs once before the merge, so that a broken checkpoint is named"
        " in the report. The merge itself refuses NaN in any case.",
        json_schema_extra={"position": 2},
    )
    shard_size: ShardSize = Field(
        default="5GB",
        title="Largest weight file",
        description="For example 5GB or 500MB. Workers on several machines take whole files.",
        json_schema_extra={"position": 3},
    )
    scale_out: ScaleOut = Field(
        default_factory=ScaleOut,
        title="Workers",
        json_schema_extra={"position": 4},
    )


class Named(Section):
    """What a file that a flow is run from says of itself."""

    name: str = Field(
        title="Name",
        description="Shown in the run list; letters, digits, dot, dash and underscore.",
        pattern=NAME,
        json_schema_extra={"position": 0},
    )
    description: str = Field(
        default="",
        title="Description",
        description="What this is for, for people.",
        max_length=2000,
        json_schema_extra={"position": 1},
    )


class Pipeline(Named):
    """Which checkpoints, which merge, which evaluation, which rule, which registered model."""

    recipe: Recipe = Field(
        title="Recipe",
        description="The merge, in mergekit's notation. In a file: the recipe itself, or the path"
        " of a recipe file.",
        json_schema_extra={"position": 2},
    )
    evaluate: Evaluate = Field(title="Evaluate", json_schema_extra={"position": 3})
    promote: PromotionRule = Field(
        default_factory=PromotionRule,
        title="Promote",
        description="The rule that the merged checkpoint has to pass; else the base is kept.",
        json_schema_extra={"position": 4},
    )
    register_as: Register = Field(
        default_factory=Register,
        alias="register",
        title="Register",
        json_schema_extra={"position": 5},
    )
    execution: Execution = Field(
        default_factory=Execution,
        title="Execution",
        json_schema_extra={"position": 6},
    )
    diagnose: bool = Field(
        default=False,
        title="Diagnose",
        description="Also look at merges along the way between the models, on the search half of"
        " the suite, and say what to try: a page on the run and in MLflow.",
        json_schema_extra={"position": 7},
    )

    @field_validator("recipe", mode="before")
    @classmethod
    def _checked_recipe(cls, value: Any) -> Any:
        """Check a recipe by its own rules, whether it comes from a file, a form or the API."""
        if isinstance(value, Recipe):
            return value
        if not isinstance(value, dict):
            raise ValueError("must be a recipe: a mapping with merge_method and models")
        try:
            return parse_recipe(value)
        except RecipeError as error:
            raise SaidInLines(str(error)) from None

    @model_validator(mode="after")
    def _champion_has_a_name(self) -> Pipeline:
        if "champion" in self.promote.baselines and self.register_as.model is None:
            raise ValueError(
                "promote.baseline: the champion is a version of a registered model; set"
                " register.model, or compare with the base"
            )
        return self

    @property
    def run_name(self) -> str:
        """Name of a run of this pipeline: the same for the same recipe."""
        return f"{self.name}-{self.recipe.digest[:8]}"


@dataclass(frozen=True)
class LoadedPipeline:
    """A pipeline from a file, with the directory that its checkpoint paths start from."""

    pipeline: Pipeline
    beside: Path
    """Directory of the recipe: the recipe's own file when it has one, else the pipeline's."""


def load_pipeline(path: Path, kind: type[Pipeline] = Pipeline) -> LoadedPipeline:
    """Read a pipeline file.

    Args:
        kind: what the file has to be: a pipeline, or one with more sections.

    Raises:
        RecipeError: unreadable, not YAML, or with a mistake; names the YAML path of each.
    """
    values = load_yaml(path)
    if kind is Pipeline and "search" in values:
        raise RecipeError(
            "this is a search, not a pipeline",
            where=f"{path}: search",
            mend="run it with `mergeflow search`, or take the section out",
        )
    beside = path.absolute().parent
    recipe = values.get("recipe")
    if isinstance(recipe, str):
        recipe_path = beside / place_of(recipe)
        if not os.path.isfile(recipe_path):  # noqa: PTH113 - no, too, of a name that is too long
            raise RecipeError(
                f"there is no recipe file {recipe_path}",
                where=f"{path}: recipe",
                mend="paths in a pipeline file start from its own directory",
            )
        values["recipe"] = load_recipe(recipe_path)
        recipe_beside = recipe_path.parent
    else:
        recipe_beside = beside
        if isinstance(recipe, dict):
            values["recipe"] = parse_recipe(recipe, where=f"{path}: recipe")
    pipeline = validated(kind, values, str(path))
    evaluate = with_suite_beside(pipeline.evaluate, beside)
    pipeline = pipeline.model_copy(update={"evaluate": evaluate})
    return LoadedPipeline(pipeline, recipe_beside)


def with_suite_beside(evaluate: Evaluate, beside: Path) -> Evaluate:
    """The section of a file with its suite's path made absolute, if it starts from the file."""
    suite = beside / place_of(evaluate.suite, Home.discover())
    is_there = os.path.exists(suite)  # noqa: PTH110 - says no of a name that no file can have
    return evaluate.model_copy(update={"suite": str(suite)}) if is_there else evaluate


def check_places(loaded: LoadedPipeline) -> None:
    """Find a mistyped path or suite at once, before any server is started.

    Raises:
        RecipeError: no such suite or calibration data, or one with a mistake in it.
        CheckpointError: a reference that leads nowhere.
    """
    home = Home.discover()
    load_suite(expand_variables(loaded.pipeline.evaluate.suite, home))
    check_data(loaded.pipeline.recipe, loaded.beside)
    for reference in loaded.pipeline.recipe.references():
        parse_reference(reference, loaded.beside, home)
