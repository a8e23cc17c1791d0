"""Round-trip check: the decoded tokens of each stimulus must equal its text.

A tokenizer of another model, or one that was rebuilt incorrectly, drops spaces, splits characters differently or loses
words, and all later results are silently wrong. The check ignores the tokenizer's own normalisation (lower case,
compatibility forms, accents).
"""

from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np

from harness.records import Context, Integers
from harness.text import tokenizer_facts

# Marks of vocabulary entries that continue, end or begin a word.
_MARKS = ("##", "</w>", "@@", "\u2581")


def require(context: Context, ids: Integers, offsets: Integers, owners: Integers, tokenizer: Any) -> None:
    """Check that the tokens of every stimulus decode to its text.

    Args:
        context: the text and the character spans of its stimuli.
        ids: (token,) of the whole text.
        offsets: (token, 2) character span of each token.
        owners: (token,) stimulus of each token; -1 for none.
        tokenizer: a tokenizer of transformers, or one with the same interface.

    Raises:
        ValueError: naming the first stimulus whose tokens decode to another text.
    """
    facts = tokenizer_facts.of(tokenizer)
    unknown = np.isin(ids, sorted(facts.unknown))
    for stimulus in range(len(context.stimulus_ids)):
        own = np.flatnonzero(owners == stimulus)
        if not len(own) or unknown[own].any():
            continue
        first, last = _whole_characters(int(own[0]), int(own[-1]), offsets)
        # A token that begins before the stimulus covers more than it; one that ends past it belongs to the next one.
        start, end = (int(position) for position in context.spans[stimulus])
        start, end = min(int(offsets[first, 0]), start), max(int(offsets[last, 1]), end)
        if last + 1 < len(ids) and offsets[last + 1, 0] < end:
            end = int(offsets[last, 1])
        text, decoded = context.text[start:end], _decoded(ids[first : last + 1], tokenizer)
        if not _same(text, decoded, tokenizer):
            pieces = " ".join(tokenizer.convert_ids_to_tokens(ids[first : last + 1].tolist()))
            raise ValueError(
                f"the tokenizer does not give the text back: stimulus {context.stimulus_ids[stimulus]!r}, "
                f"{text.strip()!r}, becomes {pieces!r}. {_ADVICE}"
            )
    if facts.keeps_spaces and not unknown.any():
        _require_spaces(*_without_added(context.text, _decoded(ids, tokenizer), ids, facts.added))


def _whole_characters(first: int, last: int, offsets: Integers) -> tuple[int, int]:
    """Extend a range of tokens to neighbours that share a character with it.

    Byte-level tokens may end within a character, and words in scripts without spaces may begin or end inside a token.
    """
    while first > 0 and offsets[first, 0] < offsets[first - 1, 1]:
        first -= 1
    while last + 1 < len(offsets) and offsets[last + 1, 0] < offsets[last, 1]:
        last += 1
    return first, last


_ADVICE = "Put the model's own tokenizer into its folder, or save it again as tokenizer.json."


def _without_added(text: str, decoded: str, ids: Integers, added: dict[int, str]) -> tuple[str, str]:
    """Replace added tokens by spaces in both texts, since some added tokens absorb the spaces around them."""
    for token in {added[token_id] for token_id in ids.tolist() if token_id in added}:
        text, decoded = text.replace(token, " "), decoded.replace(token, " ")
    return text, decoded


def _require_spaces(text: str, decoded: str) -> None:
    """Raise if spaces between words were lost."""
    n_words, n_decoded = len(text.split()), len(decoded.split())
    if n_decoded < n_words:
        raise ValueError(
            f"the tokenizer does not give the text back: of {n_words} words between spaces, {n_decoded} are left: "
            f"{decoded[:60]!r} for {text[:60]!r}. {_ADVICE}"
        )


def _decoded(ids: Integers, tokenizer: Any) -> str:
    return str(tokenizer.decode(ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _same(text: str, decoded: str, tokenizer: Any) -> bool:
    """Whether two texts have the same letters, before or after the tokenizer's own normalisation."""
    return _letters(text) == _letters(decoded) or _letters(_normalised(text, tokenizer)) == _letters(decoded)


def _letters(text: str) -> str:
    """A text in compatibility form and lower case, without spaces, word marks, accents and control characters."""
    for mark in _MARKS:
        text = text.replace(mark, "")
    folded = unicodedata.normalize("NFKD", text.casefold())
    return "".join(char for char in folded if not (char.isspace() or unicodedata.category(char) in {"Mn", "Cc", "Cf"}))


def _normalised(text: str, tokenizer: Any) -> str:
    """The text after the tokenizer's own normaliser."""
    if hasattr(tokenizer, "normalize"):
        return str(tokenizer.normalize(text))
    normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    return str(normalizer.normalize_str(text)) if normalizer is not None else text
