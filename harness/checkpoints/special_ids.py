"""The ids that stand around a text: which special tokens a model reads before and after it.

A decoder's text begins with BOS, so that its first word has a surprisal. An encoder reads a text between the tokens
that its tokenizer puts there, and so does the encoder of an encoder-decoder, whose decoder begins with its start token.
Published files name ids that are past the embeddings, or that are ordinary words. Such an id is never used: a text is
then read without it, and a note says so, or the model is refused where it cannot be read without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.checkpoints.model_configs import ModelConfig

Ids = tuple[int, ...]
# Stands for a text where a tokenizer is asked what it puts around one.
_TEXT = "a"
# Families whose decoder starts with the language, which their tokenizer puts after the text (transformers'
# shift_tokens_right of these families wraps the last token around).
_STARTS_WITH_LANGUAGE = frozenset({"mbart", "plbart"})


@dataclass(frozen=True)
class SpecialIds:
    """Ids around a text.

    prefix: before what a decoder reads, or an encoder that stands alone. suffix: after what an encoder reads.
    source_prefix: before what the encoder of an encoder-decoder reads. notes: sentences on what a user should know:
    ids that are named and not used, or more ids than BOS, CLS and SEP.
    """

    prefix: Ids
    suffix: Ids = ()
    source_prefix: Ids = ()
    notes: tuple[str, ...] = ()


def around(config: ModelConfig, tokenizer: Any) -> SpecialIds:
    """The ids around a text of a model.

    Args:
        config: of `model_configs.load`.
        tokenizer: of `published_tokenizers.load`.

    Raises:
        ValueError: if an encoder-decoder has no start token, or no token that ends a text; or if one of its ids is past
            the embeddings.
    """
    own = _template(tokenizer)
    if config.stack == "encoder-decoder":
        return _of_both(config, tokenizer, *own)
    if config.stack == "encoder":
        return _of_encoder(config, tokenizer, *own)
    return _of_decoder(config, tokenizer, own[0])


def _of_decoder(config: ModelConfig, tokenizer: Any, before: Ids) -> SpecialIds:
    """What the tokenizer puts before a text, where that is not BOS alone (GLM, XGLM); else BOS, if it is usable."""
    is_more = before and before != _one(tokenizer.bos_token_id)
    if is_more and not any(_out_of_range(token, config) for token in before):
        return SpecialIds(before, notes=(f"every text begins with {_named(before, tokenizer)}, as in its tokenizer.",))
    notes: list[str] = []
    for where, token in (("the tokenizer", tokenizer.bos_token_id), ("config.json", config.bos)):
        if token is None:
            continue
        wrong = _out_of_range(token, config) or _is_word(token, tokenizer)
        if not wrong:
            return SpecialIds((int(token),), notes=tuple(notes))
        notes.append(f"bos_token_id {token} of {where} {wrong}: it is not put before a text.")
    return SpecialIds((), notes=tuple(notes))


def _of_encoder(config: ModelConfig, tokenizer: Any, before: Ids, after: Ids) -> SpecialIds:
    """What the tokenizer puts around a text; CLS and SEP, or BOS and EOS, where it puts nothing."""
    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
    bos = config.bos if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    usual = _one(bos if first is None else first), _one(tokenizer.eos_token_id if last is None else last)
    notes: list[str] = []
    if (before or after) and (before, after) != usual:
        usual = before, after
        notes.append(
            f"a text is read between {_named(before, tokenizer)} and {_named(after, tokenizer)}, as in its tokenizer."
        )
    kept = []
    for place, ids in zip(("before", "after"), usual, strict=True):
        notes += [f"the special id {token} {wrong}: it is not put {place} a text." for token in ids
                  if (wrong := _out_of_range(token, config))]  # fmt: skip
        kept.append(tuple(token for token in ids if not _out_of_range(token, config)))
    return SpecialIds(kept[0], kept[1], notes=tuple(notes))


def _of_both(config: ModelConfig, tokenizer: Any, before: Ids, after: Ids) -> SpecialIds:
    if not before and not after:
        after = _one(tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id)
    if not before and not after:
        raise ValueError("the tokenizer names no end-of-sequence token; the encoder ends every text with it.")
    start = config.decoder_start
    if start is None and config.family in _STARTS_WITH_LANGUAGE and after:
        start = after[-1]
    if start is None:
        raise ValueError("config.json names no decoder_start_token_id; add it (T5: the id of <pad>).")
    # The decoder was trained to write texts that begin as the tokenizer begins them, after the start token.
    prefix = (start, *(token for token in before if token != start))
    for token in (*before, *after, *prefix):
        if wrong := _out_of_range(token, config):
            raise ValueError(f"the special id {token} {wrong}; put the model's own tokenizer into its folder.")
    notes: tuple[str, ...] = ()
    if before or len(after) > 1:
        notes = (
            f"the encoder reads a text between {_named(before, tokenizer)} and {_named(after, tokenizer)}, the decoder "
            f"after {_named(prefix, tokenizer)}.",
        )
    return SpecialIds(prefix, after, before, notes)


def _template(tokenizer: Any) -> tuple[Ids, Ids]:
    """The ids that a tokenizer itself puts before and after a text."""
    plain = [*tokenizer(_TEXT, add_special_tokens=False)["input_ids"]]
    whole = [*tokenizer(_TEXT, add_special_tokens=True)["input_ids"]]
    for start in range(len(whole) - len(plain) + 1):
        if plain and whole[start : start + len(plain)] == plain:
            return tuple(map(int, whole[:start])), tuple(map(int, whole[start + len(plain) :]))
    return (), ()


def _out_of_range(token: int, config: ModelConfig) -> str:
    """Why an id is past the embeddings; "" where it is not."""
    if 0 <= token < config.vocabulary:
        return ""
    return f"is past the embeddings, of which there are {config.vocabulary}"


def _is_word(token: int, tokenizer: Any) -> str:
    """Why an id is an ordinary token: it is not marked as special, and its own text is read as this token."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).get(token)
    is_marked = token in tokenizer.all_special_ids or bool(added is not None and added.special)
    if is_marked or token >= len(tokenizer):  # the tokenizer cannot give an id that it has no name for
        return ""
    text = tokenizer.decode([token])
    is_read = [*tokenizer(text, add_special_tokens=False)["input_ids"]] == [token]
    return f"is an ordinary token ({text!r})" if is_read else ""


def _named(ids: Ids, tokenizer: Any) -> str:
    return " ".join(map(str, tokenizer.convert_ids_to_tokens(list(ids)))) if ids else "nothing"


def _one(token: int | None) -> Ids:
    return () if token is None else (int(token),)
