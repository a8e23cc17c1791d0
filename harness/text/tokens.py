"""Contexts -> token ids, and which token belongs to which stimulus.

Offsets decide, not counts: a token belongs to the stimulus that holds its last character, so that the space before a
word goes with the word (" you"), whatever the tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.records import Context, Integers, Tokens
from harness.text import boundaries, round_trip, tokenizer_facts

# A tokenizer that maps more of a text than this to its unknown token was not made for this model or language.
MAX_UNKNOWN_SHARE = 0.2


def encode(context: Context, tokenizer: Any, n_embeddings: int | None = None) -> Tokens:
    """Tokenise a context without special tokens.

    Args:
        context: the text and the character spans of its stimuli.
        tokenizer: a fast tokenizer of transformers (one that gives offsets).
        n_embeddings: of the model; a token past them is an error.

    Returns:
        Tokens with ids (token,), owners (token,), last (stimulus,), and the stimuli that are read apart.

    Raises:
        ValueError: if the tokenizer does not know the text or does not give it back, if a stimulus has no token, or if
            there are tokens that the model lacks.
    """
    encoded = tokenizer(context.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids = np.asarray(encoded["input_ids"], dtype=np.int64)
    offsets = np.asarray(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)
    ends = offsets[:, 1] - _spaces_taken(ids, offsets, context.text, tokenizer)
    _require_known(ids, tokenizer)
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
    apart, silent = boundaries.retokenised(context, ids, offsets, tokenizer), _silent(context)
    owned = np.flatnonzero(owners >= 0)
    inside = owned[ends[owned] > context.spans[owners[owned], 0]]  # the space before a word, alone, is not the word
    without = ~silent & ~np.isin(np.arange(len(silent)), owners[inside])
    _require_tokens(context, [k for k in np.flatnonzero(without) if k not in apart])
    round_trip.require(context, ids, offsets, owners, tokenizer)
    return Tokens(ids, owners, np.where(silent, np.maximum.accumulate(last), last), context.stimulus_ids, apart)


def _spaces_taken(ids: Integers, offsets: Integers, text: str, tokenizer: Any) -> Integers:
    """(token,) spaces at the end of each that an added token takes with it (`rstrip`): they are no part of it."""
    greedy = sorted(tokenizer_facts.of(tokenizer).takes_spaces)
    found = np.zeros(len(ids), dtype=np.int64)
    for at in np.flatnonzero(np.isin(ids, greedy)) if greedy else ():
        covered = text[offsets[at, 0] : offsets[at, 1]]
        found[at] = len(covered) - len(covered.rstrip())
    return found


# How a piece of a vocabulary begins that begins with a space: as SentencePiece, bytes in GPT-2's alphabet, characters,
# or bytes of their own write it.
_SPACES = ("\u2581", "Ġ", "Ċ", "ĉ", "č", " ", "\n", "\t", "\r", "<0x20>", "<0x0A>", "<0x09>", "<0x0D>")


def word_initial_tokens(tokenizer: Any) -> Integers:
    """The tokens that begin with a space, and that which ends a text; none where no token begins with a space."""
    pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    found = [i for i, piece in enumerate(pieces) if piece and str(piece).startswith(_SPACES)]
    end = tokenizer.eos_token_id
    return np.array(sorted({*found, end} - {None}) if found else [], dtype=np.int64)


# Two characters for private use: no text and no template holds them.
_MARK = "\ue000\ue001"


def in_chat(context: Context, tokenizer: Any) -> Context:
    """The context as a user's turn in the tokenizer's chat template; the stimuli lie where they stand in it.

    Where the turn stands is found by rendering another content too: what the two have in common before and after is the
    template's, even where the template itself holds the words of the text. The BOS that many templates begin with is
    left out, since every window begins with one.

    Raises:
        ValueError: if the tokenizer has no template, or its template changes the text.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError("the tokenizer has no chat template; read this model without one.")
    text = context.text
    chat, other = (_rendered(tokenizer, content) for content in (text, _MARK))
    before, mark, after = other.partition(_MARK)
    body = next((part for part in (text, text.strip()) if mark and chat == before + part + after), None)
    if body is None:
        raise ValueError("the chat template changes the text of a user's turn; read this model without it.")
    bos = tokenizer.bos_token or ""
    cut = len(bos) if before.startswith(bos) else 0
    moved = np.clip(context.spans - text.index(body), 0, len(body))  # templates may strip a turn
    return Context(chat[cut:], context.stimulus_ids, moved + len(before) - cut)


def _rendered(tokenizer: Any, content: str) -> str:
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False))
    except TemplateError as error:
        raise ValueError(
            f"its chat template cannot be used for a turn of a user ({error}); read this model without it."
        ) from error


def _silent(context: Context) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """(stimulus,) whether nothing was said in it: what stands there is the state after what came before."""
    return np.array([not context.text[start:end].strip() for start, end in context.spans], dtype=bool)


def _require_tokens(context: Context, without: Sequence[int]) -> None:
    """Raise where stimuli with a text have no token: a row of them would hold what another word brought."""
    if not without:
        return
    start, end = context.spans[without[0]]
    text = context.text[start:end]
    raise ValueError(
        f"stimulus {context.stimulus_ids[without[0]]!r} has no token: the tokenizer leaves {text!a} out of every text; "
        "leave it out of the data set, or join it to the word before it."
    )


def _require_known(ids: np.ndarray[Any, Any], tokenizer: Any) -> None:
    unknown = np.isin(ids, sorted(tokenizer_facts.of(tokenizer).unknown))
    share = float(np.mean(unknown)) if len(ids) else 0.0
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
    if size < 2:
        raise ValueError(f"a window holds {max(size, 0)} tokens after its BOS; 2 or more are wanted: enlarge it.")
    if not 0 <= overlap < 1:
        raise ValueError(f"windows overlap by {overlap}; a share of 0 or more and less than 1 is wanted.")
    step = min(max(1, round(size * (1 - overlap))), size - 1)  # a window's first token gets no probability in it
    cuts = [(0, min(size, n_tokens), 0)]
    while cuts[-1][1] < n_tokens:
        start = cuts[-1][0] + step
        cuts.append((start, min(start + size, n_tokens), cuts[-1][1]))
    return cuts


@dataclass(frozen=True)
class Window:
    """Tokens that a causal stack reads together.

    ids: a prefix of `n_prefix` tokens, then tokens start.. of the context; first: the first token that this window
    answers for; is_end: whether it ends with the text. at, rows: positions in `ids` that are pooled, and the stimulus
    of each. apart: the stimulus in the context that it is read for, -1 where it is one of the whole text's.
    """

    ids: Integers
    context: int
    start: int
    first: int
    at: Integers
    rows: Integers
    n_prefix: int = 0
    is_end: bool = False
    apart: int = -1


def cut(
    tokens: Sequence[Tokens], limit: int, prefix: Sequence[int], overlap: float, pooling: str, bos: str = "window"
) -> list[Window]:
    """All windows of all contexts, and one more for each stimulus that is read apart.

    What no stimulus stands in is not read for itself, only as what comes before another.

    Args:
        tokens: one per context.
        limit: tokens of a window at most, prefix included.
        prefix: ids put before a text.
        overlap: see `windows`.
        pooling: "last", else all tokens of a stimulus are pooled.
        bos: which windows begin with the prefix: each ("window"), that at the beginning of a text ("text"), or "none".
    """
    if bos not in {"window", "text", "none"}:
        raise ValueError(f"bos {bos!r} is unknown; use window, text or none.")
    begin = np.asarray(prefix if bos != "none" else (), dtype=np.int64)
    nothing = begin[:0]
    made, row, size = [], 0, limit - len(begin)
    for context, read in enumerate(tokens):
        at, of = _pooled(read, pooling)
        last = read.last[of]
        places = windows(len(read.ids), size, overlap)
        for start, end, first in places:
            inside = (last >= first) & (last < end) & (at >= start)
            if not inside.any() and not (read.owners[first:end] >= 0).any():
                continue
            before = nothing if start and bos == "text" else begin
            ids, pooled = np.concatenate([before, read.ids[start:end]]), at[inside] - start + len(before)
            is_end = end == len(read.ids)
            made.append(Window(ids, context, start, first, pooled, row + of[inside], len(before), is_end))
        for stimulus, own in read.apart.items():
            ids, pooled = so_far(read, stimulus)
            start = max(next(s for s, end, _ in places if len(ids) <= end or end == len(read.ids)), len(ids) - size)
            before = nothing if start and bos == "text" else begin
            pooled = (pooled[-1:] if pooling == "last" else pooled[pooled >= start]) - start + len(before)
            text, rows = np.concatenate([before, ids[start:]]), np.full(len(pooled), row + stimulus)
            made.append(Window(text, context, start, own.n_kept, pooled, rows, len(before), True, stimulus))
        row += len(read.stimulus_ids)
    return made


def _pooled(read: Tokens, pooling: str) -> tuple[Integers, Integers]:
    """Tokens whose states are pooled in one pass, and the stimulus of each; one may stand for several stimuli."""
    together = np.array([k not in read.apart for k in range(len(read.last))], dtype=bool)
    alone = together & (read.last >= 0)  # by its last token: each, or those without tokens of their own
    if pooling == "last":
        return read.last[alone], np.flatnonzero(alone)
    alone &= ~np.isin(np.arange(len(read.last)), read.owners)
    own = np.flatnonzero((read.owners >= 0) & np.append(together, False)[read.owners])
    return np.append(own, read.last[alone]), np.append(read.owners[own], np.flatnonzero(alone))


def so_far(read: Tokens, stimulus: int) -> tuple[Integers, Integers]:
    """(token,) ids of the text up to and including a stimulus, and the positions of its own among them.

    -1 is what stands before the first stimulus. A stimulus without a token stands after what came before it.
    """
    if stimulus in read.apart:
        apart = read.apart[stimulus]
        ids = np.concatenate([read.ids[: apart.n_kept], apart.ids])
        return ids, np.arange(len(ids) - apart.n_own, len(ids))
    if stimulus < 0:
        n_before = int(np.argmax(read.owners >= 0)) if len(read.ids) else 0
        return read.ids[:n_before], np.zeros(0, dtype=np.int64)
    end = max(so_far(read, -1)[0].size, int(read.last[: stimulus + 1].max()) + 1)
    own = np.flatnonzero(read.owners[:end] == stimulus)
    return read.ids[:end], own if len(own) or read.last[stimulus] < 0 else np.array([end - 1])
