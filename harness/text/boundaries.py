"""Stimuli whose prefix, tokenised alone, differs from the beginning of the tokenised context.

One pass gives the hidden states at all stimuli, because a causal model at position t has seen exactly the prefix. This
holds only if the prefix has the same tokens. It fails where a token extends past the end of a stimulus ("New York" as
one token, a full stop with the following quotation mark). Such a stimulus needs a forward pass of its own. To find
them, only the characters before each end are tokenised again, and the whole prefix only where these differ.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.records import Context, Integers, Retokenised

# Characters before the end of a stimulus that are tokenised again. Earlier text does not influence its last tokens.
TAIL = 96


def retokenised(context: Context, ids: Integers, offsets: Integers, tokenizer: Any) -> dict[int, Retokenised]:
    """Find the stimuli whose prefix has other tokens than the context.

    Args:
        context: the text and the character spans of its stimuli.
        ids: (token,) of the whole text.
        offsets: (token, 2) character span of each token.
        tokenizer: a fast tokenizer of transformers.

    Returns:
        Index of the stimulus -> its own tokens.
    """
    ends = context.spans[:, 1]
    inner = np.unique(ends[(ends > 0) & (ends < len(context.text))])
    tails = [_tail(context.text, int(end)) for end in inner]
    tail_tokens = _tokenised(tokenizer, [context.text[begin:end] for begin, end in zip(tails, inner, strict=True)])
    suspects = [
        int(end) for begin, end, encoded in zip(tails, inner, tail_tokens, strict=True)
        if not _same_end(ids, offsets, begin, int(end), *encoded)
    ]  # fmt: skip
    prefixes = zip(suspects, _tokenised(tokenizer, [context.text[:end] for end in suspects]), strict=True)
    different = {end: encoded for end, encoded in prefixes if not _is_beginning(ids, offsets, end, encoded[0])}
    return {
        k: _of_stimulus(k, ids, *different[int(end)], context) for k, end in enumerate(ends) if int(end) in different
    }


def is_before(text: str, offsets: Integers, start: int) -> NDArray[np.bool_]:
    """(token,) whether a token lies before the character `start` of a text, and is not the one space before it.

    That space belongs to the word after it, whether the tokenizer joins the two or not; a line end does not.
    """
    is_space = (offsets[:, 0] == start - 1) & (text[max(0, start - 1) : start] == " ")
    lies_before: NDArray[np.bool_] = (offsets[:, 0] < start) & (offsets[:, 1] <= start) & ~is_space
    return lies_before


def _tail(text: str, end: int) -> int:
    """Start of the tail before `end`: at a space, if there is one."""
    if end <= TAIL:
        return 0
    space = text.rfind(" ", max(0, end - 4 * TAIL), end - TAIL)
    return space if space >= 0 else end - TAIL


def _tokenised(tokenizer: Any, texts: list[str]) -> list[tuple[Integers, Integers]]:
    """(token,) ids and (token, 2) offsets of each text."""
    if not texts:
        return []
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return [
        (np.asarray(ids, dtype=np.int64), np.asarray(offsets, dtype=np.int64).reshape(-1, 2))
        for ids, offsets in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    ]


def _same_end(
    ids: Integers, offsets: Integers, begin: int, end: int, tail_ids: Integers, tail_offsets: Integers
) -> bool:
    """Whether the second half of a tail has the same tokens as in the whole text; its beginning may differ."""
    middle = (begin + end) // 2 if begin else 0
    n = int(np.searchsorted(offsets[:, 1], end, side="right"))
    if n < len(ids) and offsets[n, 0] < end:
        return False
    first = int(np.searchsorted(offsets[:, 0], middle))
    in_second_half = tail_offsets[:, 0] + begin >= middle
    return bool(np.array_equal(ids[first:n], tail_ids[in_second_half]))


def _is_beginning(ids: Integers, offsets: Integers, end: int, prefix_ids: Integers) -> bool:
    """Whether the tokens of a prefix are the first tokens of the whole text."""
    spans_end = len(prefix_ids) < len(ids) and offsets[len(prefix_ids), 0] < end
    return bool(np.array_equal(ids[: len(prefix_ids)], prefix_ids)) and not spans_end


def _of_stimulus(
    stimulus: int, ids: Integers, prefix_ids: Integers, prefix_offsets: Integers, context: Context
) -> Retokenised:
    n = min(len(ids), len(prefix_ids))
    differs = np.flatnonzero(ids[:n] != prefix_ids[:n])
    n_kept = int(differs[0]) if len(differs) else n
    if stimulus:
        is_own = prefix_offsets[:, 1] > context.spans[stimulus - 1, 1]
    else:  # as in tokens.encode
        is_own = ~is_before(context.text, prefix_offsets, int(context.spans[0, 0]))
    n_own = max(1, int(is_own.sum()))
    return Retokenised(n_kept, prefix_ids[n_kept:], n_own)
