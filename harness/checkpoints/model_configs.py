"""What a configuration of transformers says of its model: stack, blocks, width, vocabulary, window, special ids.

The only place that knows how families name these things. transformers' own configuration classes do most of it: they
know the defaults that a config.json leaves out, map a family's names to common ones, and find the text part of a model
that also reads images or sound. An attribute that a family does not have is None here, never an error later.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.checkpoints.headers import read_json

Stack = Literal["decoder", "encoder-decoder", "encoder"]
# Auto classes of transformers, in the order in which they are searched: the first that lists the configuration counts.
_MASKED, _CAUSAL, _SEQ2SEQ = "AutoModelForMaskedLM", "AutoModelForCausalLM", "AutoModelForSeq2SeqLM"
_OF_TEXT_AND_MORE = ("AutoModelForSeq2SeqLM", "AutoModelForImageTextToText", "AutoModelForMultimodalLM")
# Names of the largest number of tokens that a model reads at once.
_WINDOW = ("max_position_embeddings", "n_positions", "seq_length")
_OTHER_WINDOW = ("max_seq_len", "context_length", "max_encoder_position_embeddings", "max_target_positions")
# Families that cannot be read, and why.
NOT_READ = {
    "blt": "it reads bytes in patches of changing length, and has no state for each token",
    "cpmant": "it puts 32 prompt tokens before a text, and its tokenizer needs a library for Chinese words",
    "fsmt": "its decoder gives other states for an encoded text that is handed to it than for the text",
    "gemma4_assistant": "it drafts tokens for another model, and reads that model's states",
    "gemma4_unified_assistant": "it drafts tokens for another model, and reads that model's states",
    "musicgen": "it writes audio, not text",
    "musicgen_melody": "it writes audio, not text",
    "perceiver": "it reads a text into latent vectors, and has no state for each token",
    "prophetnet": "it predicts from streams beside the text, and its probabilities change with what comes after",
    "reformer": "its attention draws random hashes, so that a text read twice gives two results",
    "squeezebert": "it calls its blocks in a way in which their states cannot be taken",
    "voxtral_realtime": "it reads text together with audio only",
    "xlnet": "it was trained to predict words in random order, and sees what comes after a word",
}
_MOST = 2**53  # a larger size or number is damage
_DTYPE = re.compile(r"(torch\.)?(b?float\d+(_\w+)?|float|half|double|u?int\d+|bool)")  # names of torch's types
_HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads", "encoder_attention_heads")


@dataclass(frozen=True)
class ModelConfig:
    """A configuration in our terms.

    Attributes:
        kind: transformers' class of the model.
        config: what that class takes: of a family whose causal class reads text alone, the text part.
        family: model_type of the whole configuration.
        stack: what it is made of.
        n_blocks: stack ("encoder", "decoder") -> number of transformer blocks.
        hidden_size, vocabulary, n_heads: of the text part; 0 where a family states none.
        window: tokens that the model reads at once; None where it has no limit.
        is_window_common: whether the limit stands under one of the three names that most families use.
        bos, eos, decoder_start: special ids as stated, not yet checked; None where the family has none.
    """

    kind: Any
    config: Any
    family: str
    stack: Stack
    n_blocks: dict[str, int]
    hidden_size: int
    vocabulary: int
    n_heads: int
    window: int | None
    is_window_common: bool
    bos: int | None
    eos: int | None
    decoder_start: int | None


def load(folder: str | Path, name: str) -> ModelConfig:
    """The configuration of a checkpoint's folder.

    Args:
        folder: with config.json (and generation_config.json, where decoder_start_token_id may stand).
        name: of the model, for messages.

    Raises:
        FileNotFoundError: if there is no config.json.
        ValueError: if it is no configuration that transformers knows, or of no stack that is read here.
    """
    from transformers import AutoConfig

    path = Path(folder)
    stated = read_json(path / "config.json", name)
    _require_known(stated.get("model_type"), name)
    for key in ("dtype", "torch_dtype"):
        if isinstance(value := stated.get(key), str) and not _DTYPE.fullmatch(value):
            raise ValueError(f"{name}: {key} of config.json is {value!r}, no type of torch such as float32; mend it.")
    try:
        config = AutoConfig.from_pretrained(str(path), trust_remote_code=False)
        _reset_output_flags(config)
        return of(config, _decoder_start(path, config, name))
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(f"{name}: config.json cannot be used: {reason}") from error


def _reset_output_flags(config: Any) -> None:
    """Undo settings of a training script that change what a forward pass returns (`return_dict: false`)."""
    for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        if hasattr(part, "return_dict"):
            part.return_dict, part.output_attentions, part.output_hidden_states = True, False, False


def _require_known(family: Any, name: str) -> None:
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if not family:
        raise ValueError(f"{name}: config.json names no model_type; copy it again.")
    if not isinstance(family, str) or family not in CONFIG_MAPPING:
        raise ValueError(
            f"{name}: transformers {transformers.__version__} has no model_type {family!r}. A newer one may; code that "
            "a model brings with it is never run here."
        )


def of(config: Any, decoder_start: int | None = None) -> ModelConfig:
    """A configuration object of transformers in our terms.

    Args:
        config: of any class.
        decoder_start: id that an encoder-decoder's decoder starts with, where the configuration does not state it.

    Raises:
        ValueError: if it is neither a decoder, nor an encoder, nor an encoder-decoder of text.
    """
    if reason := NOT_READ.get(config.model_type):
        raise ValueError(f"{config.model_type!r} is not read: {reason}.")
    stack, kind = _stack(config)
    both = stack == "encoder-decoder"
    text = _part(config, stack if not both else "decoder")
    own = {which: n_blocks(config, which) for which in ("encoder", "decoder") if both or which == stack}
    window, is_common = _window(text)
    return ModelConfig(
        kind=kind,
        config=_taken(config, kind),
        family=str(config.model_type),
        stack=stack,
        n_blocks=own,
        hidden_size=_number(text, "hidden_size", "d_model", "n_embd", "dim"),
        vocabulary=_number(text, "vocab_size"),
        n_heads=_number(text, *_HEADS),
        window=window,
        is_window_common=is_common,
        bos=_id(text, config, "bos_token_id"),
        eos=_id(text, config, "eos_token_id"),
        decoder_start=_id(config, text, "decoder_start_token_id") if decoder_start is None else decoder_start,
    )


def _stack(config: Any) -> tuple[Stack, Any]:
    """The stack of a configuration, and the class of transformers that holds its weights."""
    family = config.model_type
    if getattr(config, "is_encoder_decoder", False):
        kind = _class(config, _SEQ2SEQ)
        if kind is None:
            raise ValueError(f"{family!r} has an encoder and a decoder, but transformers lists it under no text task.")
        if getattr(kind, "main_input_name", "input_ids") != "input_ids":
            raise ValueError(f"the encoder of {family!r} does not read text.")
        return "encoder-decoder", kind
    masked = _class(config, _MASKED)
    if masked is not None and not getattr(config, "is_decoder", False):
        return "encoder", masked
    kind = next(filter(None, (_class(config, auto) for auto in (_CAUSAL, *_OF_TEXT_AND_MORE))), None)
    if kind is None:
        raise ValueError(f"{family!r} is neither a decoder, nor an encoder, nor an encoder-decoder of text.")
    return "decoder", kind


def _class(config: Any, auto: str) -> Any:
    """The class that an Auto class of transformers builds for a configuration; None where it lists none."""
    import transformers

    listed = getattr(transformers, auto)._model_mapping
    if type(config) not in listed:
        return None
    found = listed[type(config)]
    return found[0] if isinstance(found, (list, tuple)) else found


def _taken(config: Any, kind: Any) -> Any:
    """The configuration that a class takes, as transformers' Auto classes choose it."""
    own = config.sub_configs.get("text_config")
    if own is None or getattr(kind, "config_class", None) is not own:
        return config
    text = config.get_text_config()
    if getattr(config, "quantization_config", None) is not None:
        text.quantization_config = config.quantization_config
    return text


def _part(config: Any, which: str) -> Any:
    """The configuration of the encoder or decoder of text, with the common names of transformers."""
    own = getattr(config, which, None)
    if own is not None and hasattr(own, "model_type"):
        return own.get_text_config()
    if not getattr(config, "is_encoder_decoder", False):
        return config.get_text_config()
    return config.get_text_config(decoder=which == "decoder", encoder=which == "encoder")


def n_blocks(config: Any, which: str) -> int:
    """Transformer blocks of the encoder or decoder of text; ValueError where the configuration states none."""
    part = _part(config, which)
    of_stack = _number(config, f"{which}_layers", f"num_{which}_layers")
    found = of_stack or _number(part, "num_hidden_layers", "num_layers") or sum(getattr(part, "block_sizes", ()))
    if not found:
        raise ValueError(f"the configuration of {config.model_type!r} states no number of {which} blocks.")
    return found


def _number(config: Any, *names: str) -> int:
    """The first of some attributes that is stated as a number; 0 where none is."""
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            if value > _MOST:
                raise ValueError(f"{name} is {value:.3g}, which no model has.")
            return value
    return 0


def _window(text: Any) -> tuple[int | None, bool]:
    common = _number(text, *_WINDOW)
    return (common or _number(text, *_OTHER_WINDOW) or None), bool(common)


def _id(first: Any, second: Any, name: str) -> int | None:
    """A special id of one of two configurations; of several ids (end of turn beside end of text) the first."""
    for config in (first, second):
        value = getattr(config, name, None)
        value = value[0] if isinstance(value, (list, tuple)) and value else value
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def _decoder_start(folder: Path, config: Any, name: str) -> int | None:
    """decoder_start_token_id of generation_config.json, for configurations that do not state it."""
    file = folder / "generation_config.json"
    if not getattr(config, "is_encoder_decoder", False) or not file.is_file():
        return None
    if getattr(config, "decoder_start_token_id", None) is not None:
        return None
    value = read_json(file, name).get("decoder_start_token_id")
    return value if isinstance(value, int) else None
