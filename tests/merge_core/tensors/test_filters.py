"""Which tensors a filter fits, and what kind of tensor a name is of, whatever the architecture."""

from __future__ import annotations

from typing import Any

import pytest

from merge_core.errors import RecipeError
from merge_core.tensors.filters import check_filter, described, is_total, matches
from merge_core.tensors.names import group_of

UP = "model.layers.3.mlp.up_proj.weight"
Q = "model.layers.13.self_attn.q_proj.weight"
HEAD = "lm_head.weight"

FILTERS: list[tuple[dict[str, Any], list[str]]] = [
    ({}, [UP, Q, HEAD]),
    ({"filter": None}, [UP, Q, HEAD]),
    ({"filter": "*"}, [UP, Q, HEAD]),
    ({"filter": "layers.3"}, [UP]),
    ({"filter": "*.mlp.*"}, []),
    ({"glob": "*"}, [UP, Q, HEAD]),
    ({"glob": "*.mlp.*"}, [UP]),
    ({"glob": "mlp"}, []),
    ({"glob": "layers.3.*"}, []),
    ({"glob": "model.layers.3"}, []),
    ({"glob": "model.layers.?.*"}, [UP]),
    ({"glob": "model.layers.[0-9]*.self_attn.[qk]_proj.weight"}, [Q]),
    ({"glob": HEAD}, [HEAD]),
    ({"regex": r"layers\.(3|13)\."}, [UP, Q]),
    ({"regex": "^lm_head"}, [HEAD]),
    ({"regex": "proj$"}, []),
    ({"group": "mlp"}, [UP]),
    ({"group": ["attention", "head"]}, [Q, HEAD]),
]


@pytest.mark.parametrize(("entry", "fitting"), FILTERS)
def test_a_filter_fits_the_tensors_that_it_describes(
    entry: dict[str, Any], fitting: list[str]
) -> None:
    check_filter(entry, "here")
    assert [name for name in (UP, Q, HEAD) if matches(entry, name)] == fitting
    assert is_total(entry) == (len(fitting) == 3)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"filter": "mlp", "glob": "*"}, "not filter and glob"),
        ({"filter": 3}, "filter must be a text, not 3"),
        ({"filter": ""}, "filter must be a text, not ''"),
        ({"glob": None}, "glob must be a text, not None"),
        ({"glob": "x" * 301}, "longer than 300"),
        ({"regex": "[a"}, r"'\[a' is no regular expression"),
        ({"regex": "(?P<x>a)(?P<x>b)"}, "no regular expression"),
        ({"regex": "a{99999999999}"}, "no regular expression"),
        ({"group": "norm"}, "did you mean 'norms'"),
        ({"group": []}, "group is an empty list"),
        ({"group": [["mlp"]]}, "there is no group"),
        ({"group": None}, "there is no group None"),
    ],
)
def test_a_filter_that_means_nothing_is_refused(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        check_filter(entry, "parameters.weight[0]")
    assert str(caught.value.where).startswith("parameters.weight[0]")


def test_a_filter_is_described_as_it_was_written() -> None:
    assert described({"glob": "*.mlp.*", "value": 1}) == "glob '*.mlp.*'"
    assert described({"group": ["norms", "head"]}) == "group norms, head"
    assert described({"value": 1}) == "no filter"


GROUPS = {
    "embeddings": """
        model.embed_tokens.weight transformer.wte.weight transformer.wpe.weight shared.weight
        model.shared.weight bert.embeddings.token_type_embeddings.weight gpt_neox.embed_in.weight
        vision_model.embeddings.class_embedding vit.embeddings.cls_token
        vision_model.embeddings.patch_embedding.weight model.visual.patch_embed.proj.weight
        backbone.embeddings.weight model.tok_embeddings.weight""",
    "attention": """
        model.layers.0.self_attn.q_proj.weight transformer.h.0.attn.c_attn.bias
        bert.encoder.layer.0.attention.self.query.weight
        bert.encoder.layer.0.attention.output.dense.weight
        encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight
        decoder.block.0.layer.1.EncDecAttention.v.weight
        model.decoder.layers.0.encoder_attn.k.weight
        transformer.h.0.self_attention.query_key_value.weight
        down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight
        swin.encoder.layers.0.blocks.0.attention.self.relative_position_bias_table""",
    "mlp": """
        model.layers.0.mlp.down_proj.weight transformer.h.0.mlp.c_fc.weight
        model.layers.0.block_sparse_moe.gate.weight
        model.layers.0.block_sparse_moe.experts.7.w1.weight model.layers.0.mlp.experts.gate_up_proj
        model.layers.0.mlp.shared_expert_gate.weight model.layers.0.feed_forward.router.weight
        bert.encoder.layer.0.intermediate.dense.weight bert.encoder.layer.0.output.dense.weight
        encoder.block.0.layer.1.DenseReluDense.wi_0.weight model.decoder.layers.0.fc1.weight
        distilbert.transformer.layer.0.ffn.lin1.weight
        albert.encoder.albert_layer_groups.0.albert_layers.0.ffn_output.weight
        transformer.blocks.0.ffn.experts.mlp.w1
        mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj.weight""",
    "norms": """
        model.layers.0.input_layernorm.weight model.layers.0.self_attn.q_norm.weight
        model.norm.weight
        transformer.h.0.ln_1.bias transformer.ln_f.weight transformer.h.0.ln_attn.weight
        bert.encoder.layer.0.attention.output.LayerNorm.gamma
        cls.predictions.transform.LayerNorm.bias
        encoder.block.0.layer.0.layer_norm.weight encoder.final_layer_norm.weight
        vision_model.pre_layrnorm.weight vit.layernorm.weight model.visual.merger.ln_q.weight
        model.layers.0.pre_feedforward_layernorm.weight backbone.norm_f.weight
        transformer.blocks.0.norm_attn_norm.norm_1.weight""",
    "head": """
        lm_head.weight language_model.lm_head.weight score.weight classifier.out_proj.weight
        cls.predictions.decoder.weight embed_out.weight output.weight qa_outputs.bias
        vocab_projector.weight proj_out.weight""",
    "other": """
        logit_scale visual_projection.weight model.multi_modal_projector.linear_1.weight
        bert.pooler.dense.weight backbone.layers.0.mixer.in_proj.weight
        model.encoder.conv1.weight swin.encoder.layers.0.downsample.reduction.weight""",
}


@pytest.mark.parametrize(
    ("name", "group"), [(name, group) for group, names in GROUPS.items() for name in names.split()]
)
def test_a_tensors_group_is_read_from_its_name(name: str, group: str) -> None:
    assert group_of(name) == group
