"""Build a tiny random model of every type that transformers lists, saved as such models are published.

A configuration takes the defaults of its class and small sizes; the class derives what depends on sizes. Special tokens
are those of the family: no BOS where its configuration has none, as in T5.
"""

import dataclasses

import torch
import transformers
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from harness.models import tiny

WIDTH, BLOCKS, HEADS, WINDOW, VOCABULARY = 48, 2, 4, 256, 400
DECODER, BOTH, ENCODER = "decoder", "encoder-decoder", "encoder"
_CAUSAL = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
_SEQ2SEQ = modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
_MASKED = modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES

_SIZES = (
    (WIDTH, "hidden_size n_embd d_model dim embed_dim model_dim word_embed_proj_dim emb_dim backbone_hidden_size"),
    (BLOCKS, "num_hidden_layers n_layer num_layers n_layers num_decoder_layers encoder_layers decoder_layers "
            "num_encoder_layers speech_encoder_layers t2u_encoder_layers t2u_decoder_layers depth"),
    (HEADS, "num_attention_heads n_head num_heads n_heads encoder_attention_heads decoder_attention_heads "
           "num_encoder_attention_heads num_decoder_attention_heads speech_encoder_attention_heads attention_heads"),
    (2, "num_key_value_heads num_kv_heads num_experts_per_tok moe_k top_k num_experts_per_token"),
    (12, "head_dim d_kv kv_channels attention_head_dim d_head"),
    (64, "intermediate_size d_ff ffn_dim encoder_ffn_dim decoder_ffn_dim n_inner moe_intermediate_size d_inner "
        "shared_expert_intermediate_size ffn_hidden_size hidden_dim speech_encoder_intermediate_size"),
    (4, "num_experts n_routed_experts num_local_experts moe_num_experts"),
    (WINDOW, "max_position_embeddings n_positions max_source_positions max_target_positions n_ctx max_seq_len "
            "max_encoder_position_embeddings max_decoder_position_embeddings"),
    (VOCABULARY, "vocab_size src_vocab_size tgt_vocab_size vocab_size_per_layer_input entity_vocab_size"),
    (0.3, "initializer_range init_std initializer_factor"),
    (0.0, "dropout attention_dropout hidden_dropout_prob"),
)  # fmt: skip
_GENERAL = {name: size for size, names in _SIZES for name in names.split()}
_LATENT = {
    "num_key_value_heads": HEADS, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "v_head_dim": 12,
    "qk_nope_head_dim": 12, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
}  # fmt: skip
_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 12, "mamba_d_state": 8, "mamba_chunk_size": 16}
_HYBRID = {
    "num_hidden_layers": 4, "linear_key_head_dim": 12, "linear_value_head_dim": 12, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}  # fmt: skip
# Further settings of types for which the general sizes do not work, by model_type.
_OWN = {
    **dict.fromkeys(("qwen3_5_text", "qwen3_5_moe_text", "qwen3_next"), _HYBRID),
    "jamba": {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4},
    "bamba": _MAMBA | {"attn_layer_indices": [1]}, "granitemoehybrid": _MAMBA | {"layer_types": ["mamba", "attention"]},
    "falcon_h1": {"mamba_d_ssm": 96, "mamba_n_heads": 8, "mamba_d_head": 12, "mamba_d_state": 8,
                  "mamba_chunk_size": 16},
    "mamba2": {"num_heads": 8, "head_dim": 12, "n_groups": 2, "state_size": 8, "chunk_size": 16},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 16},
    "gptj": {"rotary_dim": 4}, "codegen": {"rotary_dim": 4}, "stablelm": {
        "num_key_value_heads": HEADS,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    },
    "xlstm": {"hidden_size": 128, "chunk_size": 16},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
             "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": WIDTH}},
    "axk1": _LATENT, "axk2": _LATENT, "deepseek_v2": _LATENT, "deepseek_v3": _LATENT, "glm4_moe_lite": _LATENT,
    "deepseek_v32": _LATENT | {"index_topk": WINDOW, "index_head_dim": 16, "index_n_heads": 2},
    "glm_moe_dsa": _LATENT | {"index_topk": WINDOW, "index_head_dim": 16, "index_n_heads": 2},
    "youtu": _LATENT, "minicpm3": _LATENT | {"head_dim": None}, "kimi_linear": _LATENT | {
        "num_hidden_layers": 4, "linear_head_dim": 12, "linear_num_heads": HEADS, "num_local_experts": 4,
        "layer_types": ["linear_attention", "full_attention"] * 2, "num_experts_per_tok": 2,
    },
    "longcat_flash": _LATENT | {
        "head_dim": 8, "expert_ffn_hidden_size": 32, "zero_expert_num": 2, "moe_topk": 2, "n_routed_experts": 4,
    },
    "hy_v4": {"num_key_value_heads": HEADS},
    "dots1": {"n_shared_experts": 1, "num_key_value_heads": HEADS, "n_routed_experts": 4, "num_experts_per_tok": 2},
    "cohere_compass_text": {"rope_parameters": {
        kind: {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2]}
        for kind in ("full_attention", "sliding_attention")
    }},
    "gemma3n_text": {
        "layer_types": ["sliding_attention", "full_attention"], "num_kv_shared_layers": 0, "laurel_rank": 4,
        "hidden_size_per_layer_input": 8, "intermediate_size": 64, "activation_sparsity_pattern": [0.0] * BLOCKS,
    },
    "gemma4_text": {"hidden_size_per_layer_input": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "gemma4_unified_text": {"hidden_size_per_layer_input": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "qwen4_exp_text": _HYBRID | {
        "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 12, "indexer_budget": 64,
        "indexer_compress_ratio": 4, "ngram_vocab_size_base": 50, "hc_lowrank": 8, "ple_embed_dim": 16,
    },
    "zamba": {
        "num_hidden_layers": 6, "attn_layer_period": 2, "attn_layer_offset": 1, "attention_hidden_size": 96,
        "mamba_dt_rank": 4, "n_mamba_heads": 2, "num_key_value_heads": 4, "attention_head_dim": 24,
    },
    "zamba2": {
        "num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"], "chunk_size": 16,
        "mamba_d_state": 8, "adapter_rank": 4,
    },
    "zaya": {"num_experts_per_tok": 1}, "laguna": {"num_attention_heads_per_layer": [HEADS] * BLOCKS},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "esm": {"pad_token_id": 2, "mask_token_id": 3}, "esmc": {"num_key_value_heads": HEADS},
    "mobilebert": {"embedding_size": 16, "intra_bottleneck_size": 24, "true_hidden_size": 24},
    "roc_bert": {"pronunciation_vocab_size": 20, "shape_vocab_size": 20, "shape_embed_dim": 8,
                 "pronunciation_embed_dim": 8},
    "luke": {"entity_emb_size": 16}, "funnel": {"block_sizes": [2, 1], "num_decoder_layers": 1},
    "neomme": {"num_hidden_layers": 6, "head_dim": 32},
    "squeezebert": {"embedding_size": WIDTH}, "blenderbot": {"encoder_layers": BLOCKS},
    "reformer": {
        "axial_pos_shape": [16, 16], "axial_pos_embds_dim": [16, 32], "attn_layers": ["local", "lsh"],
        "attention_head_size": 12, "feed_forward_size": 64, "lsh_attn_chunk_length": 16, "local_attn_chunk_length": 16,
    },
    "hrm_text": {"H_cycles": 1, "L_cycles": 1, "prefix_lm": False},
    "recurrent_gemma": {"lru_width": WIDTH, "attention_window_size": 32},
    "rwkv": {"context_length": WINDOW, "attention_hidden_size": WIDTH}, "ctrl": {"dff": 64},
    "xlm": {"causal": True}, "led": {"attention_window": 16},
    "longformer": {"attention_window": 16}, "xmod": {"default_language": "en_XX"},
    "vibevoice_acoustic_tokenizer_encoder": {"num_filters": 2, "depths": [1] * 7},
    "qwen2_5_vl_text": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2]},
    },
    "whisper": {"num_mel_bins": 8}, "audioflamingo3_encoder": {"num_mel_bins": 8},
}  # fmt: skip


# Models of text and images whose text part is supported, and which are in none of the three mappings.
_WITH_IMAGES = ("mistral3", "qwen2_5_vl", "qwen3_vl")


def cases():
    """(model_type, stack) of all types in the three mappings, and of some models that also take images."""
    types = {(name, DECODER) for name in (*_CAUSAL, *_WITH_IMAGES)}
    for name in _SEQ2SEQ:
        types.add((name, BOTH if _default(name, "is_encoder_decoder") else DECODER))
    types |= {(name, BOTH if _default(name, "is_encoder_decoder") else ENCODER) for name in _MASKED}
    return sorted(types)


def _default(name, attribute):
    """Default of an attribute of the configuration class, without an instance: some classes need arguments."""
    return next((field.default for field in dataclasses.fields(CONFIG_MAPPING[name]) if field.name == attribute), False)


def _fields(kind):
    if not dataclasses.is_dataclass(kind):
        return {}
    absent = dataclasses.MISSING
    return {
        field.name: field.default if field.default is not absent else None
        for field in dataclasses.fields(kind)
        if field.default is not absent or field.default_factory is not absent
    }


def settings(kind):
    """Keyword arguments of a configuration class that make its model tiny."""
    defaults = _fields(kind)
    sizes = {
        name: size for name, size in _GENERAL.items()
        if name in defaults and name not in kind.attribute_map and not isinstance(defaults[name], (list, tuple, dict))
    }  # fmt: skip
    for name, default in defaults.items():
        is_id = name.endswith(("token_id", "token_index")) and isinstance(default, int)
        if is_id and not isinstance(default, bool) and default >= VOCABULARY:
            sizes[name] = VOCABULARY - 1
    for name, part in _parts(kind).items():
        sizes[name] = settings(part) | ({"model_type": part.model_type} if part.model_type else {})
    return sizes | _OWN.get(kind.model_type, {})


def _parts(kind):
    """Name -> class of nested configurations; taken from an instance if the class only states AutoConfig."""
    stated = dict(kind.sub_configs)
    if any(part.__name__ == "AutoConfig" for part in stated.values()):
        whole = kind()
        stated = {name: type(getattr(whole, name)) for name in stated if getattr(whole, name, None) is not None}
    return stated


def config_of(name, stack, special):
    """A configuration with the tokenizer's special ids."""
    kind = CONFIG_MAPPING[name]
    if name == "encoder-decoder":  # any two models; published ones use BERT
        parts = [config_of("bert", stack, special) for stack in (ENCODER, DECODER)]
        return kind.from_encoder_decoder_configs(*parts, decoder_start_token_id=special["cls_token_id"])
    options = settings(kind)
    if stack == DECODER and (name in {*_MASKED, "bert-generation"} or _default(name, "is_encoder_decoder")):
        options |= {"is_decoder": True, "is_encoder_decoder": False}
    if stack == ENCODER and name == "reformer":
        options |= {"is_decoder": False}
    config = kind(**options)
    for part in [config, *(getattr(config, name) for name in kind.sub_configs if hasattr(config, name))]:
        for key, token in special.items():
            if getattr(part, key, None) is not None:
                setattr(part, key, token)
    if stack == BOTH and getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = special.get("bos_token_id", special["pad_token_id"])
    return config


def has_bos(name):
    """Whether models of a type are published with a BOS: their configuration class has one."""
    kind = CONFIG_MAPPING[name]
    inner = [*_fields(kind).items(), *(item for part in kind.sub_configs.values() for item in _fields(part).items())]
    return any(key == "bos_token_id" and value is not None for key, value in inner)


def build(name, stack, folder, corpus, seed=0):
    """Save a tiny model and its tokenizer; return the folder."""
    special = {"eos_token": "</s>", "pad_token": "<pad>"}
    if stack == ENCODER or name == "encoder-decoder":
        special = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "mask_token": "[MASK]"}
    elif has_bos(name):
        special = {"bos_token": "<s>", **special}
    tokenizer = tiny._tokenizer(corpus, special)
    ids = {f"{key}_id": tokenizer.convert_tokens_to_ids(token) for key, token in special.items()}
    config = config_of(name, stack, ids)
    auto = {DECODER: auto_of_decoder(name), BOTH: "AutoModelForSeq2SeqLM", ENCODER: "AutoModelForMaskedLM"}[stack]
    torch.manual_seed(seed)
    model = getattr(transformers, auto).from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():  # some classes do not initialise, or with zeros
            if parameter.is_floating_point() and not bool(parameter.abs().sum() > 0):
                parameter.normal_(0, 0.05)
    folder.mkdir(parents=True)
    model.eval().save_pretrained(folder)
    if type(model.config) is not type(config):
        config.save_pretrained(folder)  # only the text part was built; the whole is published
    tokenizer.save_pretrained(folder)
    return folder


def auto_of_decoder(name):
    """The Auto class of a type that is used as a decoder."""
    if name in _WITH_IMAGES:
        return "AutoModelForImageTextToText"
    return "AutoModelForCausalLM" if name in _CAUSAL else "AutoModelForSeq2SeqLM"
