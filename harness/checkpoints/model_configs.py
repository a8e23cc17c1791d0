"""Translate a transformers configuration: stack, blocks, width, vocabulary, window and special ids under common names.

This is the only module that knows how model families name these settings. transformers' configuration classes supply
the defaults missing from config.json, map a family's names to common ones and find the text part of a multimodal model.
An attribute that a family lacks is None (or 0) here, so later code needs no checks.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.checkpoints.headers import read_json

Stack = Literal["decoder", "encoder-decoder", "encoder"]
# transformers' Auto classes in search order; the first that lists the configuration is used.
_MASKED, _CAUSAL, _SEQ2SEQ = "AutoModelForMaskedLM", "AutoModelForCausalLM", "AutoModelForSeq2SeqLM"
_OF_TEXT_AND_MORE = ("AutoModelForSeq2SeqLM", "AutoModelForImageTextToText", "AutoModelForMultimodalLM")
# Names of the maximum number of tokens per forward pass.
_WINDOW = ("max_position_embeddings", "n_positions", "seq_length")
_OTHER_WINDOW = ("max_seq_len", "context_length", "max_encoder_position_embeddings", "max_target_positions")
# Families that are not supported, and why.
UNSUPPORTED = {
    "blt": "it reads bytes in patches of varying length and has no hidden state for each token",
    "cpmant": "it puts 32 prompt tokens before a text, and its tokenizer needs a library for Chinese words",
    "fsmt": "its decoder gives different hidden states for encoder outputs passed to it than for the same text",
    "gemma4_assistant": "it drafts tokens for another model from that model's hidden states",
    "gemma4_unified_assistant": "it drafts tokens for another model from that model's hidden states",
    "musicgen": "it writes audio, not text",
    "musicgen_melody": "it writes audio, not text",
    "perceiver": "it encodes a text into latent vectors and has no hidden state for each token",
    "prophetnet": "it predicts from streams beside the text, and its probabilities change with later words",
    "reformer": "its attention draws random hashes, so two passes over the same text differ",
    "squeezebert": "its blocks are called in a way that does not allow reading their hidden states",
    "voxtral_realtime": "it reads text only together with audio",
    "xlnet": "it was trained to predict words in random order and sees the words after a word",
}
_MOST = 2**53  # larger sizes mean that the file is damaged
_DTYPE = re.compile(r"(torch\.)?(b?float\d+(_\w+)?|float|half|double|u?int\d+|bool)")  # names of torch dtypes
_HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads", "encoder_attention_heads")


@dataclass(frozen=True)
class ModelConfig:
    """A configuration under common names.

    Attributes:
        kind: transformers' model class.
        config: configuration for that class; the text part if the class takes only that.
        family: model_type of the whole configuration.
        stack: "decoder", "encoder-decoder" or "encoder".
        n_blocks: "encoder" or "decoder" -> number of transformer blocks.
        hidden_size, vocabulary, n_heads: of the text part; 0 if not stated.
        window: maximum number of tokens per forward pass; None if unlimited.
        is_window_common: whether the limit is stated under one of the three names that most families use.
        bos, decoder_start: special ids as stated, not yet checked; None if not stated.
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
    decoder_start: int | None


def import_libraries() -> None:
    """Import torch and transformers in a process of a run, which takes seconds.

    transformers would import scikit-learn too, a quarter of the time, for assisted generation, which a run never does.
    """
    with contextlib.suppress(Exception):  # whoever needs them imports them again, and shows the error
        from transformers import utils

        utils.is_sklearn_available = lambda: False
        try:
            from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer  # noqa: F401
        finally:
            utils.is_sklearn_available = utils.import_utils.is_sklearn_available


def load(folder: str | Path, name: str) -> ModelConfig:
    """Read the configuration in a checkpoint's folder.

    Args:
        folder: folder with config.json and, optionally, generation_config.json (for decoder_start_token_id).
        name: model name, for error messages.

    Raises:
        FileNotFoundError: if there is no config.json.
        ValueError: if transformers cannot use it, or the model is of an unsupported kind.
    """
    from transformers import AutoConfig

    path = Path(folder)
    stated = read_json(path / "config.json", name)
    _require_known(stated.get("model_type"), name)
    for key in ("dtype", "torch_dtype"):
        if isinstance(value := stated.get(key), str) and not _DTYPE.fullmatch(value):
            raise ValueError(f"{name}: {key} in config.json is {value!r}, not a torch dtype such as float32; fix it.")
    try:
        config = AutoConfig.from_pretrained(str(path), trust_remote_code=False)
        _reset_output_flags(config)
        return from_transformers(config, _decoder_start(path, config, name))
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(f"{name}: config.json cannot be used: {reason}") from error


def _reset_output_flags(config: Any) -> None:
    """Undo settings of a training script that change the output of a forward pass (`return_dict: false`)."""
    for subconfig in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        if hasattr(subconfig, "return_dict"):
            subconfig.return_dict, subconfig.output_attentions, subconfig.output_hidden_states = True, False, False


def _require_known(family: Any, name: str) -> None:
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if not family:
        raise ValueError(f"{name}: config.json has no model_type; copy it again.")
    if not isinstance(family, str) or family not in CONFIG_MAPPING:
        raise ValueError(
            f"{name}: transformers {transformers.__version__} has no model_type {family!r}. A newer version may; code "
            "shipped with a model is never run."
        )


def from_transformers(config: Any, decoder_start: int | None = None) -> ModelConfig:
    """Translate a transformers configuration object.

    Args:
        config: configuration of any class.
        decoder_start: start token of an encoder-decoder's decoder, if the configuration does not state it.

    Raises:
        ValueError: if the model is not a decoder, encoder or encoder-decoder of text.
    """
    if reason := UNSUPPORTED.get(config.model_type):
        raise ValueError(f"{config.model_type!r} is not supported: {reason}.")
    stack, kind = _stack(config)
    has_both = stack == "encoder-decoder"
    text = _part(config, stack if not has_both else "decoder")
    blocks = {which: n_blocks(config, which) for which in ("encoder", "decoder") if has_both or which == stack}
    common_window = _number(text, *_WINDOW)
    return ModelConfig(
        kind, _config_for(config, kind), str(config.model_type), stack, blocks,
        hidden_size=_number(text, "hidden_size", "d_model", "n_embd", "dim"),
        vocabulary=_number(text, "vocab_size"), n_heads=_number(text, *_HEADS),
        window=common_window or _number(text, *_OTHER_WINDOW) or None, is_window_common=bool(common_window),
        bos=_id(text, config, "bos_token_id"),
        decoder_start=_id(config, text, "decoder_start_token_id") if decoder_start is None else decoder_start,
    )  # fmt: skip


def _stack(config: Any) -> tuple[Stack, Any]:
    """Return the stack of a configuration and the transformers class of the model."""
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
    """Return the class that an Auto class builds for a configuration, or None if it does not list it."""
    import transformers

    mapping = getattr(transformers, auto)._model_mapping
    if type(config) not in mapping:
        return None
    kind = mapping[type(config)]
    return kind[0] if isinstance(kind, (list, tuple)) else kind


def _config_for(config: Any, kind: Any) -> Any:
    """Return the configuration that a model class takes, as transformers' Auto classes choose it."""
    text_class = config.sub_configs.get("text_config")
    if text_class is None or getattr(kind, "config_class", None) is not text_class:
        return config
    text = config.get_text_config()
    if getattr(config, "quantization_config", None) is not None:
        text.quantization_config = config.quantization_config
    return text


def _part(config: Any, which: str) -> Any:
    """Return the configuration of the text encoder or decoder, with transformers' common names."""
    subconfig = getattr(config, which, None)
    if subconfig is not None and hasattr(subconfig, "model_type"):
        return subconfig.get_text_config()
    if not getattr(config, "is_encoder_decoder", False):
        return config.get_text_config()
    return config.get_text_config(decoder=which == "decoder", encoder=which == "encoder")


def n_blocks(config: Any, which: str) -> int:
    """Return the number of transformer blocks of the text encoder or decoder; ValueError if not stated."""
    part = _part(config, which)
    stated = _number(config, f"{which}_layers", f"num_{which}_layers")
    number = stated or _number(part, "num_hidden_layers", "num_layers") or sum(getattr(part, "block_sizes", ()))
    if not number:
        raise ValueError(f"the configuration of {config.model_type!r} does not state its number of {which} blocks.")
    return number


def _number(config: Any, *names: str) -> int:
    """Return the first of several attributes that is a positive integer; 0 if none is."""
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            if value > _MOST:
                raise ValueError(f"{name} is {value:.3g}, too large for any model; copy config.json again.")
            return value
    return 0


def _id(first: Any, second: Any, name: str) -> int | None:
    """Return a special id from one of two configurations; the first of a list (end of turn, end of text)."""
    for config in (first, second):
        value = getattr(config, name, None)
        value = value[0] if isinstance(value, (list, tuple)) and value else value
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def _decoder_start(folder: Path, config: Any, name: str) -> int | None:
    """Return decoder_start_token_id from generation_config.json if the configuration does not state it."""
    file = folder / "generation_config.json"
    is_stated = getattr(config, "decoder_start_token_id", None) is not None
    if is_stated or not getattr(config, "is_encoder_decoder", False) or not file.is_file():
        return None
    value = read_json(file, name).get("decoder_start_token_id")
    return value if isinstance(value, int) else None
