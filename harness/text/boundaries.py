"""Where the text up to a stimulus, tokenised by itself, is not the beginning of the tokenised whole.

One pass gives the states at all stimuli because a causal model at position t has seen what it would have seen of the
text so far. That holds where the text so far has the same tokens. A token that reaches past the end of a stimulus
("New York" as one, a full stop with the quotation mark that follows) breaks it: the stimulus then has a reading of its
own. Only the characters before its end are tokenised again to see it; all of them only where these differ.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.records import Context, Integers, Retokenised

# Characters before a stimulus's end that are tokenised again. What stands further off has no say in its last tokens.
TAIL = 96


def retokenised(context: Context, ids: Integers, offsets: Integers, tokenizer: Any) -> dict[int, Retokenised]:
    """The stimuli whose text so far has other tokens, by their index.

    Args:
        context: the text and the character spans of its stimuli.
        ids: (token,) of the whole text.
        offsets: (token, 2) characters of each.
        tokenizer: a fast tokenizer of transformers.
    """
    ends = np.array([_end(context.text, int(stop)) for _, stop in context.spans], dtype=np.int64)
    inner = np.unique(ends[(ends > 0) & (ends < len(context.text))])
    tails = [_tail(context.text, int(end)) for end in inner]
    found = _tokenised(tokenizer, [context.text[begin:end] for begin, end in zip(tails, inner, strict=True)])
    odd = [
        int(end) for begin, end, part in zip(tails, inner, found, strict=True)
        if not _same_end(ids, offsets, begin, int(end), *part)
    ]  # fmt: skip
    wholes = zip(odd, _tokenised(tokenizer, [context.text[:end] for end in odd]), strict=True)
    other = {end: part for end, part in wholes if not _is_beginning(ids, offsets, end, part[0])}
    return {k: _of_stimulus(k, ids, *other[int(end)], context) for k, end in enumerate(ends) if int(end) in other}


def _end(text: str, stop: int) -> int:
    """The end without the spaces before it: a space at the end would be a token that no reader saw."""
    while stop and text[stop - 1].isspace():
        stop -= 1
    return stop


def _tail(text: str, end: int) -> int:
    """Where the last characters begin: at a space, where there is one."""
    if end <= TAIL:
        return 0
    space = text.rfind(" ", max(0, end - 4 * TAIL), end - TAIL)
    return space if space >= 0 else end - TAIL


def _tokenised(tokenizer: Any, texts: list[str]) -> list[tuple[Integers, Integers]]:
    if not texts:
        return []
    made = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return [
        (np.asarray(ids, dtype=np.int64), np.asarray(places, dtype=np.int64).reshape(-1, 2))
        for ids, places in zip(made["input_ids"], made["offset_mapping"], strict=True)
    ]


def _same_end(ids: Integers, offsets: Integers, begin: int, end: int, part: Integers, places: Integers) -> bool:
    """Whether the second half of a tail has the tokens that it has in the whole; its own beginning may differ."""
    middle = (begin + end) // 2 if begin else 0
    n = int(np.searchsorted(offsets[:, 1], end, side="right"))
    if n < len(ids) and offsets[n, 0] < end:
        return False
    first = int(np.searchsorted(offsets[:, 0], middle))
    own = places[:, 0] + begin >= middle
    return bool(np.array_equal(ids[first:n], part[own]))


def _is_beginning(ids: Integers, offsets: Integers, end: int, part: Integers) -> bool:
    straddles = len(part) < len(ids) and offsets[len(part), 0] < end
    return bool(np.array_equal(ids[: len(part)], part)) and not straddles


def _of_stimulus(stimulus: int, ids: Integers, part: Integers, places: Integers, context: Context) -> Retokenised:
    n = min(len(ids), len(part))
    differs = np.flatnonzero(ids[:n] != part[:n])
    n_kept = int(differs[0]) if len(differs) else n
    begin = context.spans[stimulus - 1, 1] if stimulus else context.spans[0, 0] - 1  # as in tokens.encode
    n_own = max(1, int((places[:, 1] - 1 >= begin).sum()))
    return Retokenised(n_kept, part[n_kept:], n_own)
