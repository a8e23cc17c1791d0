"""Texts and tokens as Brain-Score language gives them to a decoder, for the protocol BRAINSCORE2026.

Brain-Score encodes the text up to and including each stimulus by itself. Stimuli are joined by a space even where they
end with one, spaces before . , ! ? ; : are removed, and a space at the end of a stimulus stays and is read. The
tokenizer adds its own special tokens (none for GPT-2); a text that is too long loses its first tokens. The hidden state
of a stimulus is that of the very last token, which may be a bare space.

Where the tokens of one text are the beginning of those of the next, one forward pass serves both, since a causal model
has the same states in both.

Source: brain-score/language 2.3.0 (August 2026): `prepare_context`, `HuggingfaceSubject.digest_text` and `_tokenize`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from harness.records import Context, Integers, Stimuli, Tokens
from harness.text import tokens

_SPACE_BEFORE_PUNCTUATION = re.compile(r"\s+([.,!?;:])")


def build(stimuli: Stimuli, rule: str) -> list[Context]:
    """One text per stimulus, with all stimuli of its context so far, in the order of the published file.

    Args:
        stimuli: of a recording.
        rule: "none" (each stimulus alone), "passage", "label" (the same label) or "corpus".

    Returns:
        A context for each stimulus, with this stimulus alone in it; its text ends with the stimulus.

    Raises:
        ValueError: if Brain-Score has no such contexts.
    """
    keys = {
        "none": stimuli.ids, "passage": stimuli.passages, "label": stimuli.labels, "corpus": ("",) * len(stimuli),
    }.get(rule)  # fmt: skip
    if keys is None:
        raise ValueError(f"Brain-Score has no context rule {rule!r}; use 'none', 'passage', 'label' or 'corpus'.")
    rows = np.arange(len(stimuli)) if stimuli.file_rows is None else np.argsort(stimuli.file_rows, kind="stable")
    texts_of: dict[str, list[str]] = {}
    before: dict[str, str] = {}
    result = []
    for row in rows.tolist():
        parts = texts_of.setdefault(keys[row], [])
        parts.append(stimuli.texts[row])
        text, previous = joined(parts), before.get(keys[row], "")
        # A stimulus that begins with punctuation takes the space at the end of the one before away.
        start = len(previous if text.startswith(previous) else previous.rstrip())
        before[keys[row]] = text
        result.append(Context(text, (stimuli.ids[row],), np.array([[start, len(text)]])))
    return result


def joined(parts: Sequence[str]) -> str:
    """Brain-Score's `prepare_context`: parts with a visible character, one space between, none before punctuation."""
    return _SPACE_BEFORE_PUNCTUATION.sub(r"\1", " ".join(part for part in parts if part.strip()))


def encode(
    texts: Iterable[Context], tokenizer: Any, limit: int, n_embeddings: int | None = None, *, in_chat: bool = False
) -> list[Tokens]:
    """Tokenise the texts of `build`, with the tokenizer's special tokens, and truncate them from the left.

    Args:
        texts: one per stimulus.
        tokenizer: a fast tokenizer of transformers.
        limit: maximum tokens, special ones included; or the tokenizer's own limit (`model_max_length`), if lower.
        n_embeddings: number of the model's embeddings.
        in_chat: whether to put each text into the chat template. The last token is then that of the stimulus.

    Returns:
        Tokens of one forward pass each, at most `limit`, for one stimulus or several; together all stimuli in order.

    Raises:
        ValueError: as `tokens.encode`, and if the special tokens alone reach the limit.
    """
    limit = min(limit, int(getattr(tokenizer, "model_max_length", limit)))
    runs: list[list[Tokens]] = []
    for text in texts:
        encoded = _encode(text, tokenizer, limit, in_chat=in_chat)
        tokens.require_fit(encoded.ids, tokenizer, n_embeddings)
        if runs and not in_chat and _begins_with(encoded.ids, runs[-1][-1].ids):
            runs[-1].append(encoded)
        else:
            runs.append([encoded])
    return [_merged(run) for run in runs]


def _encode(text: Context, tokenizer: Any, limit: int, *, in_chat: bool) -> Tokens:
    """Tokens of one text, those of the stimulus marked."""
    text = tokens.in_chat(text, tokenizer) if in_chat else text
    encoded = tokenizer(text.text, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False)
    ids = np.asarray(encoded["input_ids"], dtype=np.int64)
    offsets = np.asarray(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)
    is_text = np.asarray(encoded["special_tokens_mask"], dtype=np.int64) == 0
    ((start, stop),) = text.spans
    end = max(stop, start + 1) if in_chat else len(text.text)  # a space at the end is read
    owners = np.where(is_text & (offsets[:, 1] > start) & (offsets[:, 0] < end), 0, -1)
    kept = np.flatnonzero(~is_text | _is_last(is_text, limit - int((~is_text).sum())))
    own = np.flatnonzero(owners[kept] == 0)
    last = (own[-1] if len(own) else -1) if in_chat else len(kept) - 1
    return Tokens(ids[kept], owners[kept], np.array([last]), text.stimulus_ids)


def _is_last(marked: np.ndarray[Any, np.dtype[np.bool_]], n: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """The last `n` marked elements."""
    if n < 1:
        raise ValueError("the tokenizer's special tokens leave no room for the text; enlarge the window.")
    return marked & (marked[::-1].cumsum()[::-1] <= n)


def _begins_with(ids: Integers, beginning: Integers) -> bool:
    return len(beginning) <= len(ids) and bool(np.array_equal(ids[: len(beginning)], beginning))


def _merged(run: Sequence[Tokens]) -> Tokens:
    """One record for stimuli whose tokens begin with those of the stimulus before."""
    last = np.concatenate([encoded.last for encoded in run])
    owners = np.searchsorted(last, np.arange(len(run[-1].ids)))
    owners[: len(run[0].ids)] = run[0].owners
    return Tokens(run[-1].ids, owners, last, tuple(name for encoded in run for name in encoded.stimulus_ids))
