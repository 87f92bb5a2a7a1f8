"""Recipes to generate: any method, parameters in every form, for checkpoints of known names."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from merge_core.methods import METHODS
from merge_core.methods.base import Method
from merge_core.methods.parameter import Parameter
from merge_core.methods.post_steps import POST_STEPS
from merge_core.tensors.filters import GROUPS

LAYERS = {"text": 4, "vision": 2}
"""Number of layers of each module of the checkpoints."""
MODELS = ("a", "b", "c")
NAMES = [
    "text.embed.weight",
    "lm_head.weight",
    "text.norm.weight",
    "positions",
    *(f"text.layers.{i}.{kind}.weight" for i in range(4) for kind in ("mlp.up", "attn.q", "norm")),
    *(f"vision.parts.{i}.mlp.up.weight" for i in range(2)),
]
_BOUNDS = {"weight": (0.1, 1.0), "density": (0.4, 0.6), "epsilon": (0.01, 0.3), "steps": (1, 9)}
"""Within these, parameters go together whatever the others are."""
_LEFT_ALONE = ("scope",)
"""Which of their values are possible depends on the other parameters."""

_filters = st.one_of(
    st.builds(lambda part: {"filter": part}, st.sampled_from(["mlp", "layers.1", "x", "weight"])),
    st.builds(lambda glob: {"glob": glob}, st.sampled_from(["*.mlp.*", "text.layers.?.*", "lm_*"])),
    st.builds(lambda regex: {"regex": regex}, st.sampled_from([r"layers\.[02]\.", "q|up", "^$"])),
    st.builds(
        lambda group: {"group": group},
        st.sampled_from(GROUPS) | st.lists(st.sampled_from(GROUPS), min_size=1, max_size=3),
    ),
)


def recipes() -> st.SearchStrategy[dict[str, Any]]:
    """Recipes that are right: every one of them can be merged."""
    return _recipes()


@st.composite
def _recipes(draw: st.DrawFn, name: str | None = None, extra: tuple[str, ...] = ()) -> Any:
    """One document. `name`: of one that others use, so it keeps the layers as they are; `extra`:
    names of recipes that it uses as its first models."""
    method = METHODS[
        draw(st.sampled_from(sorted(m for m in METHODS if not METHODS[m].calibration)))
    ]
    recipe: dict[str, Any] = {"merge_method": method.name}
    if name is not None:
        recipe["name"] = name
    if method.base == "required" or draw(st.booleans()):
        recipe["base_model"] = "base"
    forms = (
        ["models"] if extra else ["models", "modules"] if name else ["models", "slices", "modules"]
    )
    form = draw(st.sampled_from(forms))
    if form == "modules":
        recipe["modules"] = {
            module: draw(_body(method, None if name else stack))
            | draw(_maybe_parameters(method.parameters))
            for module, stack in (("text", "text"), ("vision", "vision"), ("default", None))
        }
    elif form == "slices":
        recipe |= draw(_body(method, "text"))
    else:
        recipe |= draw(_body(method, None, extra))
    needed = {
        p.name: draw(_settings(p, total=True)) for p in method.parameters if p.default is None
    }
    recipe["parameters"] = draw(_maybe_parameters(method.parameters)).get("parameters", {}) | needed
    if draw(st.booleans()):
        excluded = _filters.filter(lambda entry: entry.get("filter") != "weight")
        recipe["exclude"] = draw(st.lists(excluded | st.sampled_from(["mlp", "q"]), max_size=2))
    if "base_model" in recipe and draw(st.booleans()):
        step = POST_STEPS[draw(st.sampled_from(sorted(POST_STEPS)))]
        settings = {p.name: draw(_settings(p, total=True)) for p in step.parameters}
        recipe["post"] = [{step.name: settings}]
    recipe |= draw(
        st.fixed_dictionaries(
            {},
            optional={
                "out_dtype": st.sampled_from(["bfloat16", "float32"]),
                "seed": st.integers(0, 9),
            },
        )
    )
    return recipe


@st.composite
def chains(draw: st.DrawFn) -> Any:
    """A recipe that uses another by name, as one mapping."""
    return draw(_recipes(extra=("first",))) | {"recipes": [draw(_recipes(name="first"))]}


@st.composite
def _body(draw: st.DrawFn, method: Method, stack: str | None, extra: tuple[str, ...] = ()) -> Any:
    """`models`, or `slices` of a stack."""
    if stack is None or draw(st.booleans()):
        chosen = draw(_chosen(method, extra))
        return {
            "models": [
                {"model": each} | draw(_maybe_parameters(method.per_model())) for each in chosen
            ]
        }
    slices = []
    for _ in range(draw(st.integers(1, 2))):
        length = draw(st.integers(1, LAYERS[stack]))
        sources = []
        for model in draw(_chosen(method, ())):
            start = draw(st.integers(0, LAYERS[stack] - length))
            source = {"model": model, "layer_range": [start, start + length]}
            sources.append(source | draw(_maybe_parameters(method.per_model())))
        slices.append({"sources": sources} | draw(_maybe_parameters(method.parameters)))
    return {"slices": slices}


@st.composite
def _chosen(draw: st.DrawFn, method: Method, extra: tuple[str, ...]) -> Any:
    most = min(method.most_models or 3, 3)
    count = draw(st.integers(min(method.fewest_models, most), most))
    return [*extra, *draw(st.permutations(MODELS))][:count]


@st.composite
def _maybe_parameters(draw: st.DrawFn, parameters: tuple[Parameter, ...]) -> Any:
    chosen = [p for p in parameters if draw(st.integers(0, 3)) == 0]
    if not chosen:
        return {}
    return {"parameters": {p.name: draw(_settings(p)) for p in chosen}}


@st.composite
def _settings(draw: st.DrawFn, parameter: Parameter, *, total: bool = False) -> Any:
    """A value in any of its forms; `total`: for every tensor."""
    value = _values(parameter)
    either = value | st.lists(value, min_size=1, max_size=4)
    if draw(st.integers(0, 2)):
        return draw(either)
    entries = [draw(_filters) | {"value": draw(either)} for _ in range(draw(st.integers(1, 2)))]
    if total or draw(st.booleans()):
        entries.append(draw(st.sampled_from([{}, {"filter": "*"}])) | {"value": draw(either)})
    return entries


def _values(parameter: Parameter) -> st.SearchStrategy[Any]:
    if parameter.name in _LEFT_ALONE:
        return st.just(parameter.default)
    if parameter.kind == "flag":
        return st.booleans()
    if parameter.kind == "word":
        return st.sampled_from(parameter.choices)
    if parameter.kind == "choice":
        return st.sampled_from(parameter.choices) | st.booleans()
    low, high = _BOUNDS.get(parameter.name, (parameter.low, parameter.high))
    low, high = max(low, parameter.low, -2.0), min(high, parameter.high, 2.0)
    return st.floats(low, max(low, high)) | st.just(float(high) if high > low else low)
