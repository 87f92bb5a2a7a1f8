"""The ancestry of registered versions, read back from a real MLflow registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from merge_core.errors import MergeflowError
from tasks.lineage.graph import Lineage
from tasks.lineage.mermaid import lineage_mermaid
from tasks.lineage.text import render_lineage
from tasks.lineage.trace import lineage
from tasks.registry.register import register_merge
from tests.support.registrations import copied_registry, registration, source, variant
from tests.support.registry_contents import Registered, client


@pytest.fixture(scope="module")
def stacked(
    tiny_zoo: Any, merged: Path, promoted: Registered, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """A second merge, of the first merge's result and the code expert, under another name."""
    directory = tmp_path_factory.mktemp("stacked")
    registry = copied_registry(promoted.registry, directory)
    result = variant(merged, directory / "stacked", "stacked")
    again = variant(merged, directory / "copy of the first merge", "merged")
    assert source(again).digest == promoted.result.candidate.digest
    register_merge(
        **registration(
            registry,
            tiny_zoo.base,
            [again, tiny_zoo.code_expert],
            result,
            method="ties",
            name="stacked",
            experiment="second",
        )
    )
    return registry, result


def test_the_lineage_of_the_champion_names_every_input_with_its_digest(
    promoted: Registered,
) -> None:
    manifest = promoted.arguments["manifest"]

    tree = lineage("models:/zoo@champion", promoted.registry)
    text = render_lineage(tree)

    assert tree.version == promoted.result.candidate.version
    assert tree.aliases == ("champion",)
    assert tree.root == manifest.digest
    assert [(node.role, node.digest) for node in tree.top.inputs] == [
        (item.role, item.digest) for item in manifest.inputs
    ]
    assert tree.top.merge is not None
    assert tree.top.merge.object_id == manifest.object_id
    for part in (
        manifest.digest,
        *(item.digest for item in manifest.inputs),
        *(item.reference for item in manifest.inputs),
        manifest.recipe_digest,
        "task_arithmetic merge",
        "promoted, gain +4.00%",
        "zoo_code_bpb bits_per_byte 2.4000 (baseline 2.5000)",
    ):
        assert part in text


def test_a_checkpoint_that_is_base_and_ingredient_at_once_is_listed_once_with_both_roles(
    tiny_zoo: Any, merged: Path, registry: str
) -> None:
    models = [tiny_zoo.code_expert, tiny_zoo.base]
    register_merge(**registration(registry, tiny_zoo.base, models, merged))

    inputs = lineage("models:/zoo@champion", registry).top.inputs

    assert [node.role for node in inputs] == ["base+model", "model"]


def test_a_version_is_named_by_number_as_well_as_by_alias(promoted: Registered) -> None:
    base = lineage(f"models:/zoo/{promoted.result.base.version}", promoted.registry)

    assert base.root == promoted.arguments["base"].digest
    assert base.top.merge is None
    assert base.top.inputs == ()


def test_an_input_that_another_merge_made_is_followed_by_digest_wherever_it_lies(
    stacked: tuple[str, Path], promoted: Registered
) -> None:
    registry, result = stacked

    tree = lineage("models:/stacked@champion", registry)

    assert tree.root == source(result).digest
    base, first, code = (tree.by_digest[item.digest] for item in tree.top.inputs)
    assert first.digest == promoted.result.candidate.digest
    assert first.merge is not None
    assert first.merge.run_id == promoted.result.run_id
    assert first.merge.verdict == "promoted"
    inputs = promoted.arguments["manifest"].inputs
    assert [node.digest for node in first.inputs] == [item.digest for item in inputs]
    assert (base.merge, code.merge) == (None, None)
    assert len(tree.digests()) == 5


def test_a_checkpoint_that_two_merges_used_is_drawn_once(stacked: tuple[str, Path]) -> None:
    tree = lineage("models:/stacked@champion", stacked[0])

    chart = lineage_mermaid(tree).splitlines()

    assert chart[0] == "flowchart LR"
    nodes = [line for line in chart if "<br/>" in line]
    edges = [line for line in chart if "-->" in line]
    assert len(nodes) == 5
    assert len(edges) == 6
    for digest in tree.digests():
        assert sum(digest[:12] in line for line in nodes) == 1


def test_a_merge_that_gave_back_one_of_its_inputs_does_not_send_the_tree_round_in_circles(
    tiny_zoo: Any, registry: str
) -> None:
    register_merge(
        **registration(registry, tiny_zoo.base, [tiny_zoo.code_expert], tiny_zoo.code_expert)
    )

    tree = lineage("models:/zoo@champion", registry)

    assert tree.digests() == (tree.root, tree.top.inputs[0].digest)
    assert "shown above" in render_lineage(tree)
    assert lineage_mermaid(tree)


def test_lineage_survives_json(promoted: Registered) -> None:
    tree = lineage("models:/zoo@champion", promoted.registry)

    assert Lineage.model_validate_json(tree.model_dump_json()) == tree


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("zoo", "write models:/NAME@champion or models:/NAME/3"),
        ("models:/zoo", "write models:/NAME@champion or models:/NAME/3"),
        ("models:/zou@champion", "did you mean 'zoo'"),
        ("models:/zoo@challenger", r"aliases here: @champion \(version 2\)"),
        ("models:/zoo/7", "versions here: 1, 2"),
    ],
)
def test_an_unknown_address_is_answered_with_what_exists(
    promoted: Registered, uri: str, message: str
) -> None:
    with pytest.raises(MergeflowError) as raised:
        lineage(uri, promoted.registry)

    assert raised.match(message)


def test_a_version_of_somebody_else_is_said_to_be_unknown(after_promotion: str) -> None:
    api = client(after_promotion)
    api.create_registered_model("foreign")
    api.create_model_version("foreign", source="/elsewhere")

    with pytest.raises(MergeflowError, match="not registered by mergeflow"):
        lineage("models:/foreign/1", after_promotion)


def test_asking_before_anything_was_registered_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(MergeflowError, match="nothing has been registered yet"):
        lineage("models:/zoo@champion", f"sqlite:///{tmp_path / 'mlflow.db'}")

    assert list(tmp_path.iterdir()) == []
