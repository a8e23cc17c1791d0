"""Tokens must give the text back, word by word: what is read is what was written, and nothing else.

A tokenizer that belongs to another model, or that was rebuilt wrongly, drops spaces, cuts other characters or loses
words, and every number after it is wrong without a message. Here the tokens of each stimulus are decoded and compared
with its text. What a tokenizer does to every text (lower case, compatibility forms, accents) counts as the same.
"""

from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np

from harness.records import Context, Integers
from harness.text import tokenizer_facts

# How pieces of a vocabulary are marked that do not begin, or that end, a word.
_MARKS = ("##", "</w>", "@@", "\u2581")


def require(context: Context, ids: Integers, offsets: Integers, owners: Integers, tokenizer: Any) -> None:
    """Raise where the tokens do not give the text back.

    Args:
        context: the text and the character spans of its stimuli.
        ids: (token,) of the whole text.
        offsets: (token, 2) characters of each.
        owners: (token,) the stimulus of each; -1 where there is none.
        tokenizer: of transformers, or of the same use.

    Raises:
        ValueError: with the first stimulus whose tokens read otherwise, and how.
    """
    facts = tokenizer_facts.of(tokenizer)
    unknown = np.isin(ids, sorted(facts.unknown))
    for stimulus in range(len(context.stimulus_ids)):
        own = np.flatnonzero(owners == stimulus)
        if not len(own) or unknown[own].any():
            continue
        first, last = _whole_characters(int(own[0]), int(own[-1]), offsets)
        # A token that began before the stimulus reads as more than it; one that reaches past its end is the next one's.
        start, end = (int(at) for at in context.spans[stimulus])
        start, end = min(int(offsets[first, 0]), start), max(int(offsets[last, 1]), end)
        if last + 1 < len(ids) and offsets[last + 1, 0] < end:
            end = int(offsets[last, 1])
        text, read = context.text[start:end], _decoded(ids[first : last + 1], tokenizer)
        if not _same(text, read, tokenizer):
            pieces = " ".join(tokenizer.convert_ids_to_tokens(ids[first : last + 1].tolist()))
            raise ValueError(
                f"the tokenizer does not give the text back: stimulus {context.stimulus_ids[stimulus]!r}, "
                f"{text.strip()!r}, becomes {pieces!r}. {_ADVICE}"
            )
    if facts.keeps_spaces and not unknown.any():
        _require_spaces(*_without_added(context.text, _decoded(ids, tokenizer), ids, facts.added))


def _whole_characters(first: int, last: int, offsets: Integers) -> tuple[int, int]:
    """The tokens from `first` to `last`, and those before and after that hold a part of a character of theirs.

    Tokens of bytes may end within a character, and so may the words of languages that are written without spaces.
    """
    while first > 0 and offsets[first, 0] < offsets[first - 1, 1]:
        first -= 1
    while last + 1 < len(offsets) and offsets[last + 1, 0] < offsets[last, 1]:
        last += 1
    return first, last


_ADVICE = "Put the model's own tokenizer into its folder, or save it again as tokenizer.json."


def _without_added(text: str, read: str, ids: Integers, added: dict[int, str]) -> tuple[str, str]:
    """Two texts with a space for each added token; some of these take the spaces around them with them."""
    for token in {added[at] for at in ids.tolist() if at in added}:
        text, read = text.replace(token, " "), read.replace(token, " ")
    return text, read


def _require_spaces(text: str, read: str) -> None:
    """Raise where the words of a text have run together."""
    wanted, found = len(text.split()), len(read.split())
    if found < wanted:
        raise ValueError(
            f"the tokenizer does not give the text back: of {wanted} words between spaces, {found} are left: "
            f"{read[:60]!r} for {text[:60]!r}. {_ADVICE}"
        )


def _decoded(ids: Integers, tokenizer: Any) -> str:
    return str(tokenizer.decode(ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _same(text: str, read: str, tokenizer: Any) -> bool:
    """Whether two texts have the same letters; first as they are, then as the tokenizer normalises the text."""
    return _letters(text) == _letters(read) or _letters(_normalised(text, tokenizer)) == _letters(read)


def _letters(text: str) -> str:
    """Without spaces, marks of pieces, accents, control characters and case, in compatibility form."""
    for mark in _MARKS:
        text = text.replace(mark, "")
    folded = unicodedata.normalize("NFKD", text.casefold())
    return "".join(char for char in folded if not (char.isspace() or unicodedata.category(char) in {"Mn", "Cc", "Cf"}))


def _normalised(text: str, tokenizer: Any) -> str:
    """The text as the tokenizer's own normaliser leaves it."""
    if hasattr(tokenizer, "normalize"):
        return str(tokenizer.normalize(text))
    normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    return str(normalizer.normalize_str(text)) if normalizer is not None else text
