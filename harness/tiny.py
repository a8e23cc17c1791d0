"""Tiny models of each family, built from a configuration and a seed, saved as real checkpoints.

The quickstart and the tests read them through the same loading code as a model from the Hub. Their weights are random,
drawn wide enough that blocks differ from each other and next-word probabilities from uniform.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

WIDTH = 48
BLOCKS = 4
HEADS = 4
CONTEXT = 256
VOCABULARY = 800


def build(family: str, folder: Path, corpus: Iterable[str], seed: int) -> Path:
    """Write a tiny checkpoint (config.json, model.safetensors, tokenizer.json) and return its folder.

    Args:
        family: a key of FAMILIES.
        folder: is made; must not hold another model.
        corpus: text on which the byte-level BPE tokenizer is trained.
        seed: of the weights.
    """
    import torch

    tokenizer = _tokenizer(corpus)
    torch.manual_seed(seed)
    model = FAMILIES[family](len(tokenizer))
    folder.mkdir(parents=True, exist_ok=True)
    model.eval().save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer(corpus: Iterable[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=CONTEXT
    )


def _llama(vocabulary: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=BLOCKS,
            num_attention_heads=HEADS,
            max_position_embeddings=CONTEXT,
            initializer_range=0.3,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=2,
        )
    )


def _gpt2(vocabulary: int) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocabulary,
            n_embd=WIDTH,
            n_layer=BLOCKS,
            n_head=HEADS,
            n_positions=CONTEXT,
            initializer_range=0.3,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=2,
        )
    )


def _t5(vocabulary: int) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=vocabulary,
            d_model=WIDTH,
            d_ff=2 * WIDTH,
            d_kv=WIDTH // HEADS,
            num_layers=BLOCKS,
            num_heads=HEADS,
            feed_forward_proj="gated-gelu",
            initializer_factor=0.3,
            tie_word_embeddings=False,
            decoder_start_token_id=2,
            eos_token_id=1,
            pad_token_id=2,
        )
    )


FAMILIES: dict[str, Callable[[int], Any]] = {"llama": _llama, "gpt2": _gpt2, "t5": _t5}
