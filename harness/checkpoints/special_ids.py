"""Special tokens around a text: which ids a model gets before and after it.

A decoder's text begins with BOS, so that its first word has a surprisal. An encoder gets the tokens that its tokenizer
puts around a text. The same holds for the encoder of an encoder-decoder, whose decoder begins with its start token.
Some published files name ids past the embeddings, or ids of ordinary words. Such ids are never used: the text is then
encoded without them and a note says so, or the model is refused if it cannot work without them.

The notes enter the keys of a model's units (`Checkpoint.reading`): changing their wording recomputes stored features.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.checkpoints import tokenizers
from harness.checkpoints.model_configs import ModelConfig

Ids = tuple[int, ...]
# Stand-in text for finding out which tokens a tokenizer puts around one.
_TEXT = "a"
# Families whose decoder starts with the language token, which their tokenizer puts after the text (transformers'
# shift_tokens_right moves it to the front).
_STARTS_WITH_LANGUAGE = frozenset({"mbart", "plbart"})


@dataclass(frozen=True)
class SpecialIds:
    """Ids around a text.

    Attributes:
        prefix: before the decoder's text, or before an encoder's text in a model without decoder.
        suffix: after an encoder's text.
        source_prefix: before the encoder's text in an encoder-decoder.
        notes: sentences for the user: ids that are stated but not used, or ids other than BOS, CLS and SEP.
    """

    prefix: Ids
    suffix: Ids = ()
    source_prefix: Ids = ()
    notes: tuple[str, ...] = ()


def load(folder: str | Path, config: ModelConfig) -> tuple[Any, SpecialIds]:
    """Return the tokenizer in a folder and the ids around a text, with the notes on both."""
    published = tokenizers.load(folder, config.config)
    special = around(config, published.tokenizer)
    return published.tokenizer, replace(special, notes=(*filter(None, [published.note]), *special.notes))


def around(config: ModelConfig, tokenizer: Any) -> SpecialIds:
    """Return the ids around a text for a model.

    Args:
        config: result of `model_configs.load`.
        tokenizer: tokenizer of `tokenizers.load`.

    Raises:
        ValueError: if an encoder-decoder has no start token or no end-of-text token, or if one of its ids is past the
            embeddings.
    """
    template = _template(tokenizer)
    if config.stack == "encoder-decoder":
        return _of_encoder_decoder(config, tokenizer, *template)
    if config.stack == "encoder":
        return _of_encoder(config, tokenizer, *template)
    return _of_decoder(config, tokenizer, template[0])


def _of_decoder(config: ModelConfig, tokenizer: Any, before: Ids) -> SpecialIds:
    """Use the tokenizer's own prefix if it is not BOS alone (GLM, XGLM); else BOS, if it is usable."""
    has_own_prefix = before and before != _as_ids(tokenizer.bos_token_id)
    if has_own_prefix and not any(_range_error(token, config) for token in before):
        return SpecialIds(before, notes=(f"every text begins with {_named(before, tokenizer)}, as in its tokenizer.",))
    notes: list[str] = []
    for where, token in (("the tokenizer", tokenizer.bos_token_id), ("config.json", config.bos)):
        if token is None:
            continue
        problem = _range_error(token, config) or _word_error(token, tokenizer)
        if not problem:
            return SpecialIds((int(token),), notes=tuple(notes))
        notes.append(f"bos_token_id {token} of {where} {problem}: it is not put before a text.")
    return SpecialIds((), notes=tuple(notes))


def _of_encoder(config: ModelConfig, tokenizer: Any, before: Ids, after: Ids) -> SpecialIds:
    """Use the tokenizer's own ids around a text; CLS and SEP, or BOS and EOS, if it adds none."""
    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
    bos = config.bos if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    around_text = _as_ids(bos if first is None else first), _as_ids(tokenizer.eos_token_id if last is None else last)
    notes: list[str] = []
    if (before or after) and (before, after) != around_text:
        around_text = before, after
        notes.append(
            f"a text is read between {_named(before, tokenizer)} and {_named(after, tokenizer)}, as in its tokenizer."
        )
    kept = []
    for place, ids in zip(("before", "after"), around_text, strict=True):
        notes += [f"the special id {token} {problem}: it is not put {place} a text." for token in ids
                  if (problem := _range_error(token, config))]  # fmt: skip
        kept.append(tuple(token for token in ids if not _range_error(token, config)))
    return SpecialIds(kept[0], kept[1], notes=tuple(notes))


def _of_encoder_decoder(config: ModelConfig, tokenizer: Any, before: Ids, after: Ids) -> SpecialIds:
    if not before and not after:
        after = _as_ids(tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id)
    if not before and not after:
        raise ValueError("the tokenizer names no end-of-sequence token, which must end every text of the encoder.")
    start = config.decoder_start
    if start is None and config.family in _STARTS_WITH_LANGUAGE and after:
        start = after[-1]
    if start is None:
        raise ValueError("config.json names no decoder_start_token_id; add it (T5: the id of <pad>).")
    # The decoder was trained on texts that begin with the tokenizer's prefix after the start token.
    prefix = (start, *(token for token in before if token != start))
    for token in (*before, *after, *prefix):
        if problem := _range_error(token, config):
            raise ValueError(f"the special id {token} {problem}; put the model's own tokenizer into its folder.")
    notes: tuple[str, ...] = ()
    if before or len(after) > 1:
        notes = (
            f"the encoder reads a text between {_named(before, tokenizer)} and {_named(after, tokenizer)}, the decoder "
            f"after {_named(prefix, tokenizer)}.",
        )
    return SpecialIds(prefix, after, before, notes)


def _template(tokenizer: Any) -> tuple[Ids, Ids]:
    """Return the ids that a tokenizer itself puts before and after a text."""
    plain = [*tokenizer(_TEXT, add_special_tokens=False)["input_ids"]]
    whole = [*tokenizer(_TEXT, add_special_tokens=True)["input_ids"]]
    for start in range(len(whole) - len(plain) + 1):
        if plain and whole[start : start + len(plain)] == plain:
            return tuple(map(int, whole[:start])), tuple(map(int, whole[start + len(plain) :]))
    return (), ()


def _range_error(token: int, config: ModelConfig) -> str:
    """Say that an id is past the embeddings; "" if it is not."""
    if 0 <= token < config.vocabulary:
        return ""
    return f"is past the embeddings, of which there are {config.vocabulary}"


def _word_error(token: int, tokenizer: Any) -> str:
    """Say that an id is an ordinary token (not marked as special, and its text is tokenised to it); "" if it is not."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).get(token)
    is_marked = token in tokenizer.all_special_ids or bool(added is not None and added.special)
    if is_marked or token >= len(tokenizer):  # ids past the vocabulary have no text
        return ""
    text = tokenizer.decode([token])
    is_ordinary = [*tokenizer(text, add_special_tokens=False)["input_ids"]] == [token]
    return f"is an ordinary token ({text!r})" if is_ordinary else ""


def _named(ids: Ids, tokenizer: Any) -> str:
    return " ".join(map(str, tokenizer.convert_ids_to_tokens(list(ids)))) if ids else "nothing"


def _as_ids(token: int | None) -> Ids:
    return () if token is None else (int(token),)
