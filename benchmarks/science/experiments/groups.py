"""Attention, MLP and embeddings, each scaled alone; and scales that grow with depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.science.chapters import Chapter, Finding, Panel, plain
from benchmarks.science.experiments.tuned import chosen
from benchmarks.science.laboratory import Candidate, Laboratory
from benchmarks.science.results import measured, of_seeds
from benchmarks.science.sizes import Size
from benchmarks.science.texts import DOMAINS, Skill

LAYERWISE = "Yang et al. 2024 (AdaMerging), arXiv:2310.02575"
LINES = "Wang et al. 2024 (LiNeS), arXiv:2410.17146"
GROUPS = {"attention": "self_attn", "MLP": "mlp", "embeddings": "embed_tokens"}
SCALES = (0.0, 0.25, 0.5, 0.75, 1.0)
REST = 0.5
LOW, HIGH = 0.25, 0.75


def run(laboratories: Sequence[Laboratory], size: Size) -> Chapter:
    """Each group over its scale, the best of each together, and two gradients."""
    texts = laboratories[0].texts
    documents = [texts.texts(Skill(domain), "judging") for domain in DOMAINS]
    tuning = [texts.texts(Skill(domain), "tuning") for domain in DOMAINS]
    together: dict[int, dict[str, float]] = {}

    def models(laboratory: Laboratory) -> Mapping[str, Candidate]:
        def merge(weight: Any) -> Candidate:
            experts = [laboratory.expert(Skill(domain)) for domain in DOMAINS]
            return laboratory.recipe(
                "task_arithmetic", [(each, {"weight": weight}) for each in experts]
            )

        alone = {
            (group, scale): merge(_filtered({group: scale})) for group in GROUPS for scale in SCALES
        }
        whole = {scale: merge(scale) for scale in SCALES}
        best = {
            group: chosen(laboratory, {s: alone[group, s] for s in SCALES}, tuning)
            for group in GROUPS
        }
        together[laboratory.training.seed] = best
        embeddings = {"filter": GROUPS["embeddings"], "value": REST}
        return {
            "flat": merge(REST),
            "one scale": whole[chosen(laboratory, whole, tuning)],
            "group scales": merge(_filtered(best)),
            "rising": merge([embeddings, {"value": [LOW, HIGH]}]),
            "falling": merge([embeddings, {"value": [HIGH, LOW]}]),
            **{f"{group} {scale:g}": each for (group, scale), each in alone.items()},
        }

    bits = measured(laboratories, models, documents)
    curves = {
        group: [bits.more(f"{group} {scale:g}", "flat") for scale in SCALES] for group in GROUPS
    }
    tuned = {
        group: of_seeds([together[each.training.seed][group] for each in laboratories])
        for group in GROUPS
    }
    findings = [
        Finding(
            "Scales for parts of the model are better than one for all of it.",
            LAYERWISE,
            "a tuned scale for each group is better than one tuned scale",
            bits.more("one scale", "group scales"),
        ),
        Finding(
            "Scales that grow with depth are better than equal ones.",
            LINES,
            f"{LOW:g} to {HIGH:g} from the first layer to the last is better than {REST:g}",
            bits.more("flat", "rising"),
        ),
        Finding(
            "Scales that grow with depth are better than those that fall.",
            LINES,
            f"{LOW:g} to {HIGH:g} is better than {HIGH:g} to {LOW:g}",
            bits.more("falling", "rising"),
        ),
    ]
    return Chapter(
        name="groups",
        title="Scales of layer groups",
        done=f"Both experts' task vectors at {REST:g}, but for one group at a time. The scale of"
        " each group that is best on tuning documents: "
        + ", ".join(f"{group} {plain(found, 2)}" for group, found in tuned.items())
        + "; these together are the group scales.",
        findings=findings,
        panels=[
            Panel(
                "one group at another scale",
                SCALES,
                curves,
                f"scale of the group, the rest at {REST:g}",
                "bits per byte, more is worse",
                f"everything at {REST:g}",
            ),
            Panel(
                "other scales",
                ["one tuned\nscale", "a scale for\neach group", "rising with\ndepth", "falling"],
                {
                    "": [
                        bits.more(name, "flat")
                        for name in ("one scale", "group scales", "rising", "falling")
                    ]
                },
                "",
                "bits per byte, more is worse",
                f"everything at {REST:g}",
            ),
        ],
        alt="Bits per byte over the scale of attention, MLP and embeddings; bars for gradients",
        numbers={
            "group_scales_over_one_scale": findings[0].estimate,
            "rising_over_flat": findings[1].estimate,
            **{f"best_scale_{group.lower()}": found for group, found in tuned.items()},
        },
    )


def _filtered(scales: Mapping[str, float]) -> list[dict[str, Any]]:
    """A weight that is another one for these groups."""
    named = [{"filter": GROUPS[group], "value": scale} for group, scale in scales.items()]
    return [*named, {"value": REST}]
