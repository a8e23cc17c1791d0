"""Build tiny models of each family from a configuration and a seed, saved as real checkpoints.

The quickstart and the tests load them through the same code as models from the Hub. The weights are random, with a
standard deviation large enough that layers differ and next-token distributions are not uniform.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WIDTH = 48
BLOCKS = 4
HEADS = 4
CONTEXT = 256
VOCABULARY = 800

# Special tokens of the tokenizers, in the order of their ids. The tokenizers do not add them to a text; the loaded
# model does (`LoadedModel.prefix`, `LoadedModel.suffix`), as it does for every tokenizer.
_LLAMA = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
_BERT = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "mask_token": "[MASK]"}
_ROBERTA = {**_LLAMA, "cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"}

_SHAPE = {
    "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": BLOCKS, "num_attention_heads": HEADS,
    "max_position_embeddings": CONTEXT, "initializer_range": 0.3, "bos_token_id": 0, "eos_token_id": 1,
    "pad_token_id": 2,
}  # fmt: skip
_GROUPED = {**_SHAPE, "num_key_value_heads": HEADS // 2, "head_dim": WIDTH // HEADS}
# The sliding window is shorter than the context so that it takes effect.
_GEMMA = {**_GROUPED, "query_pre_attn_scalar": WIDTH // HEADS, "sliding_window": CONTEXT // 4}
_GPT = {
    "n_embd": WIDTH, "n_layer": BLOCKS, "n_head": HEADS, "n_positions": CONTEXT, "initializer_range": 0.3,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
_T5 = {
    "d_model": WIDTH, "d_ff": 2 * WIDTH, "d_kv": WIDTH // HEADS, "num_layers": BLOCKS, "num_heads": HEADS,
    "initializer_factor": 0.3, "decoder_start_token_id": 2, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip


@dataclass(frozen=True)
class TinyFamily:
    """A small model of a family.

    Attributes:
        name: prefix of its class names in transformers.
        model: suffix of the model's class name.
        settings: arguments of the configuration.
        special: the tokenizer's special tokens.
    """

    name: str
    model: str
    settings: Mapping[str, Any]
    special: Mapping[str, str] = field(default_factory=lambda: _LLAMA)


FAMILIES = {
    "llama": TinyFamily("Llama", "ForCausalLM", _SHAPE),
    "gpt2": TinyFamily("GPT2", "LMHeadModel", _GPT),
    "gpt_neox": TinyFamily("GPTNeoX", "ForCausalLM", _SHAPE),
    "mistral": TinyFamily("Mistral", "ForCausalLM", {**_GROUPED, "sliding_window": CONTEXT // 4}),
    "qwen2": TinyFamily("Qwen2", "ForCausalLM", _GROUPED),
    "qwen3": TinyFamily("Qwen3", "ForCausalLM", _GROUPED),
    "olmo2": TinyFamily("Olmo2", "ForCausalLM", _GROUPED),
    "gemma2": TinyFamily("Gemma2", "ForCausalLM", _GEMMA),
    "gemma3_text": TinyFamily("Gemma3Text", "ForCausalLM", _GEMMA),
    "gemma": TinyFamily("Gemma", "ForCausalLM", _GROUPED),
    "olmo": TinyFamily("Olmo", "ForCausalLM", _GROUPED),
    "phi3": TinyFamily("Phi3", "ForCausalLM", _GROUPED),
    "granite": TinyFamily("Granite", "ForCausalLM", {**_GROUPED, "logits_scaling": 2.0}),
    "cohere": TinyFamily("Cohere", "ForCausalLM", {**_GROUPED, "logit_scale": 0.25}),
    "opt": TinyFamily("OPT", "ForCausalLM", {
        **_SHAPE, "ffn_dim": 2 * WIDTH, "word_embed_proj_dim": WIDTH, "init_std": 0.3,
    }),
    "bloom": TinyFamily("Bloom", "ForCausalLM", {
        "hidden_size": WIDTH, "n_layer": BLOCKS, "n_head": HEADS, "initializer_range": 0.3, "bos_token_id": 0,
        "eos_token_id": 1, "pad_token_id": 2, "seq_length": CONTEXT,
    }),
    "falcon": TinyFamily("Falcon", "ForCausalLM", _SHAPE),
    "falcon-alibi": TinyFamily("Falcon", "ForCausalLM", {**_SHAPE, "alibi": True, "new_decoder_architecture": False}),
    "gptj": TinyFamily("GPTJ", "ForCausalLM", {**_GPT, "rotary_dim": WIDTH // HEADS // 2}),
    # T5 v1.1, the base of Flan-T5: gated, with an untied output head.
    "t5": TinyFamily("T5", "ForConditionalGeneration", {
        **_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
    }),
    "t5-original": TinyFamily("T5", "ForConditionalGeneration", {
        **_T5, "feed_forward_proj": "relu", "tie_word_embeddings": True,
    }),
    "bert": TinyFamily("Bert", "ForMaskedLM", _SHAPE, _BERT),
    # Position ids start after the padding token's id.
    "roberta": TinyFamily("Roberta", "ForMaskedLM", {**_SHAPE, "max_position_embeddings": CONTEXT + 3}, _ROBERTA),
    "distilbert": TinyFamily("DistilBert", "ForMaskedLM", {
        "dim": WIDTH, "hidden_dim": 2 * WIDTH, "n_layers": BLOCKS, "n_heads": HEADS, "initializer_range": 0.3,
        "max_position_embeddings": CONTEXT, "pad_token_id": 2,
    }, _BERT),
    "electra": TinyFamily("Electra", "ForMaskedLM", {**_SHAPE, "embedding_size": WIDTH // 2}, _BERT),
    "modernbert": TinyFamily("ModernBert", "ForMaskedLM", {
        **_SHAPE, "cls_token_id": 0, "sep_token_id": 1, "local_attention": CONTEXT // 4,
    }, _BERT),
    "deberta-v2": TinyFamily("DebertaV2", "ForMaskedLM", {**_SHAPE, "relative_attention": True}, _BERT),
}  # fmt: skip


def build(family: str, folder: Path, corpus: Iterable[str], seed: int) -> Path:
    """Write a tiny checkpoint (config.json, model.safetensors, tokenizer.json) and return its folder.

    Args:
        family: a key of FAMILIES.
        folder: created if missing; must not hold another model.
        corpus: training text of the byte-level BPE tokenizer.
        seed: seed of the weights.
    """
    import torch
    import transformers

    tiny_family = FAMILIES[family]
    tokenizer = _tokenizer(corpus, tiny_family.special)
    config = getattr(transformers, f"{tiny_family.name}Config")(vocab_size=len(tokenizer), **tiny_family.settings)
    torch.manual_seed(seed)
    # The model class of Gemma 3's text model lacks the word "Text".
    model = getattr(transformers, tiny_family.name.removesuffix("Text") + tiny_family.model)(config)
    transformers.utils.logging.disable_progress_bar()
    folder.mkdir(parents=True, exist_ok=True)
    model.eval().save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer(corpus: Iterable[str], special: Mapping[str, str] = _LLAMA) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=list(dict.fromkeys(special.values())),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=CONTEXT, **special)


MODELS = {"tiny-llama": "llama", "tiny-gpt2": "gpt2", "tiny-t5": "t5"}
PLANTED, PLANTED_READING = "tiny-llama", "tiny-gpt2"
