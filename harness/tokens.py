"""Contexts -> token ids, and which token belongs to which stimulus.

Offsets decide, not counts: a token belongs to the stimulus that holds its last character, so that the space before a
word goes with the word (" you"), whatever the tokenizer.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.records import Context, Tokens

# A tokenizer that maps more of a text than this to its unknown token was not made for this model or language.
MAX_UNKNOWN_SHARE = 0.2


def encode(context: Context, tokenizer: Any, n_embeddings: int | None = None) -> Tokens:
    """Tokenise a context without special tokens.

    Args:
        context: the text and the character spans of its stimuli.
        tokenizer: a fast tokenizer of transformers (one that gives offsets).
        n_embeddings: of the model; a token past them is an error.

    Returns:
        Tokens with ids (token,), owners (token,), last (stimulus,).

    Raises:
        ValueError: if the tokenizer gives no offsets, does not know the text, or gives tokens that the model lacks.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError("the tokenizer gives no character offsets; save a fast one (tokenizer.json) with the model.")
    encoded = tokenizer(context.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids = np.asarray(encoded["input_ids"], dtype=np.int64)
    ends = np.asarray(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)[:, 1]
    _require_known(ids, tokenizer.unk_token_id)
    if n_embeddings is not None and len(ids) and ids.max() >= n_embeddings:
        raise ValueError(
            f"the tokenizer does not fit the model: it gives a token with id {ids.max()}, the model has {n_embeddings} "
            "embeddings. Put the model's own tokenizer into its folder."
        )
    owners = np.searchsorted(context.spans[:, 1], ends - 1, side="right")
    begins = context.spans[0, 0] - 1 if len(context.spans) else 0  # the space before a stimulus is its own
    owners = np.where((owners < len(context.stimulus_ids)) & (ends - 1 >= begins), owners, -1)
    last = np.full(len(context.stimulus_ids), -1, dtype=np.int64)
    last[owners[owners >= 0]] = np.flatnonzero(owners >= 0)  # later tokens overwrite earlier ones
    last = np.where(_silent(context), np.maximum.accumulate(last), last)
    return Tokens(ids, owners, last, context.stimulus_ids)


def in_chat(context: Context, tokenizer: Any) -> Context:
    """The context as a user's turn in the tokenizer's chat template; the stimuli lie where they stand in it.

    The BOS that many templates begin with is left out, since every window begins with one.

    Raises:
        ValueError: if the tokenizer has no template, or its template changes the text.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError("the tokenizer has no chat template; read this model without one.")
    said = str(tokenizer.apply_chat_template([{"role": "user", "content": context.text}], tokenize=False))
    said = said.removeprefix(tokenizer.bos_token or "")
    start = said.find(context.text)
    if start < 0:
        raise ValueError("the chat template changes the text of a user's turn; read this model without it.")
    return Context(said, context.stimulus_ids, context.spans + start)


def _silent(context: Context) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """(stimulus,) whether nothing was said in it: what stands there is the state after what came before."""
    return np.array([not context.text[start:end].strip() for start, end in context.spans], dtype=bool)


def _require_known(ids: np.ndarray[Any, Any], unknown: int | None) -> None:
    if unknown is None or not len(ids):
        return
    share = float(np.mean(ids == unknown))
    if share > MAX_UNKNOWN_SHARE:
        raise ValueError(
            f"the tokenizer maps {share:.0%} of the text to its unknown token; it does not fit this text or this "
            "model: put the model's own tokenizer.json into its folder."
        )


def windows(n_tokens: int, size: int, overlap: float = 0.5) -> list[tuple[int, int, int]]:
    """Cut a token sequence into windows that a model can read.

    Args:
        n_tokens: length of the sequence, BOS included.
        size: the model's limit.
        overlap: share of a window that the one before has read already; it is the least share of the limit that any
            later token has as context.

    Returns:
        (start, end, first) of each window: it reads tokens start..end-1 and answers for first..end-1.

    Raises:
        ValueError: if the size is under 2 or the overlap is not in [0, 1).
    """
    if size < 2 or not 0 <= overlap < 1:
        raise ValueError(f"windows: size {size} must be 2 or more and overlap {overlap} in [0, 1).")
    step = min(max(1, round(size * (1 - overlap))), size - 1)  # a window's first token gets no probability in it
    cuts = [(0, min(size, n_tokens), 0)]
    while cuts[-1][1] < n_tokens:
        start = cuts[-1][0] + step
        cuts.append((start, min(start + size, n_tokens), cuts[-1][1]))
    return cuts
