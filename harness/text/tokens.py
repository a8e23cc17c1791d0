"""Tokenisation of contexts, assignment of tokens to stimuli, and windows.

Tokens are assigned by character offsets: a token belongs to the stimulus that contains its last character. The space
before a word therefore belongs to the word (" you") with every tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harness.records import Context, Integers, Tokens
from harness.text import boundaries, round_trip, tokenizer_facts

# A tokenizer that maps a larger fraction of a text to its unknown token does not fit the model or the language.
MAX_UNKNOWN_SHARE = 0.2


def encode(context: Context, tokenizer: Any, n_embeddings: int | None = None) -> Tokens:
    """Tokenise a context without special tokens.

    Args:
        context: the text and the character spans of its stimuli.
        tokenizer: a fast tokenizer of transformers (one that gives offsets).
        n_embeddings: number of the model's embeddings; a token id beyond them is an error.

    Returns:
        Tokens with ids (token,), owners (token,), last (stimulus,), and the retokenised stimuli.

    Raises:
        ValueError: if too many tokens are unknown, if the tokens do not decode to the text, if a stimulus has no token,
            or if the model lacks a token.

    A prompt at the beginning is tokenised together with the text, so that the words have the same tokens as elsewhere.
    Where a token would hold characters of both (a quotation mark and the word after it), they are tokenised separately,
    so that the tokens of the stimuli are theirs alone.
    """
    if not context.n_prompt:
        return _encode(context, tokenizer, n_embeddings)
    prompt, text = context.text[: context.n_prompt], context.text[context.n_prompt :]
    before = np.asarray(tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"], dtype=np.int64)
    _require_known(prompt, before, tokenizer)
    offsets = _offsets(tokenizer(context.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False))
    crosses = (offsets[:, 0] < len(prompt.rstrip())) & (offsets[:, 1] > len(prompt))
    if not crosses.any():
        encoded = _encode(context, tokenizer, n_embeddings)
        n_prompt = int(boundaries.is_before(context.text, offsets, context.n_prompt).sum())
        if all(own.n_kept >= n_prompt for own in encoded.retokenised.values()):
            return replace(encoded, n_prompt=n_prompt)
    require_fit(before, tokenizer, n_embeddings)
    alone = Context(text, context.stimulus_ids, context.spans - context.n_prompt)
    return _after_prompt(_encode(alone, tokenizer, n_embeddings), before)


def _require_known(prompt: str, ids: Integers, tokenizer: Any) -> None:
    """Raise ValueError if much of a prompt is unknown to the tokenizer."""
    unknown = np.isin(ids, sorted(tokenizer_facts.of(tokenizer).unknown))
    if len(ids) and float(np.mean(unknown)) > MAX_UNKNOWN_SHARE:
        raise ValueError(
            f"the tokenizer maps {np.mean(unknown):.0%} of the prompt {prompt[:80]!r} to its unknown token; write the "
            "prompt in characters that the model has."
        )


def _after_prompt(encoded: Tokens, prompt: Integers) -> Tokens:
    """Put the tokens of a prompt before those of a text."""
    n = len(prompt)
    retokenised = {key: replace(own, n_kept=own.n_kept + n) for key, own in encoded.retokenised.items()}
    owners = np.concatenate([np.full(n, -1, dtype=np.int64), encoded.owners])
    last = np.where(encoded.last >= 0, encoded.last + n, -1)
    return Tokens(np.concatenate([prompt, encoded.ids]), owners, last, encoded.stimulus_ids, retokenised, n)


def _offsets(encoded: Any) -> Integers:
    return np.asarray(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)


def _encode(context: Context, tokenizer: Any, n_embeddings: int | None) -> Tokens:
    """Tokenise a context as one text."""
    encoded = tokenizer(context.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids, offsets = np.asarray(encoded["input_ids"], dtype=np.int64), _offsets(encoded)
    ends = offsets[:, 1] - _spaces_taken(ids, offsets, context.text, tokenizer)
    require_fit(ids, tokenizer, n_embeddings)
    owners = np.searchsorted(context.spans[:, 1], ends - 1, side="right")
    # What precedes the stimuli (a prompt, a chat template, text before them) is no part of them.
    start = int(context.spans[0, 0]) if len(context.spans) else 0
    is_own = (owners < len(context.stimulus_ids)) & ~boundaries.is_before(context.text, offsets, start)
    owners = np.where(is_own, owners, -1)
    last = np.full(len(context.stimulus_ids), -1, dtype=np.int64)
    last[owners[owners >= 0]] = np.flatnonzero(owners >= 0)  # later tokens overwrite earlier ones
    retokenised = boundaries.retokenised(context, ids, offsets, tokenizer)
    # An empty stimulus gets the hidden state after the preceding text.
    silent = np.array([not context.text[start:end].strip() for start, end in context.spans], dtype=bool)
    owned = np.flatnonzero(owners >= 0)
    # A token that is only the space before a word does not count as a token of the word.
    inside = owned[ends[owned] > context.spans[owners[owned], 0]]
    without_token = ~silent & ~np.isin(np.arange(len(silent)), owners[inside])
    _require_tokens(context, [k for k in np.flatnonzero(without_token) if k not in retokenised])
    round_trip.require(context, ids, offsets, owners, tokenizer)
    last = np.where(silent, np.maximum.accumulate(last), last)
    return Tokens(ids, owners, last, context.stimulus_ids, retokenised)


def _spaces_taken(ids: Integers, offsets: Integers, text: str, tokenizer: Any) -> Integers:
    """(token,) number of trailing spaces that an added token absorbs (`rstrip`); they do not belong to it."""
    greedy = sorted(tokenizer_facts.of(tokenizer).takes_spaces)
    n_spaces = np.zeros(len(ids), dtype=np.int64)
    for index in np.flatnonzero(np.isin(ids, greedy)) if greedy else ():
        covered = text[offsets[index, 0] : offsets[index, 1]]
        n_spaces[index] = len(covered) - len(covered.rstrip())
    return n_spaces


# First characters of vocabulary entries that begin with a space: SentencePiece, GPT-2's byte alphabet, plain
# characters, byte tokens.
_SPACES = ("\u2581", "Ġ", "Ċ", "ĉ", "č", " ", "\n", "\t", "\r", "<0x20>", "<0x0A>", "<0x09>", "<0x0D>")


def word_initial_tokens(tokenizer: Any) -> Integers:
    """Ids of tokens that begin with a space, and of the end-of-text token; empty if no token begins with a space."""
    pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    initial = [i for i, piece in enumerate(pieces) if piece and str(piece).startswith(_SPACES)]
    end = tokenizer.eos_token_id
    return np.array(sorted({*initial, end} - {None}) if initial else [], dtype=np.int64)


# Two private-use characters, which occur in no text and no template.
_MARK = "\ue000\ue001"


def in_chat(context: Context, tokenizer: Any) -> Context:
    """Wrap a context as a user turn in the tokenizer's chat template, and move the spans of the stimuli.

    The position of the turn is found by rendering a second content: what both renderings share belongs to the template,
    even if the template contains words of the text. The BOS that many templates begin with is removed, since every
    window begins with one.

    Raises:
        ValueError: if the tokenizer has no template, or its template changes the text.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError("the tokenizer has no chat template; run this model without --chat-template.")
    text = context.text
    chat, rendered_mark = (_rendered(tokenizer, content) for content in (text, _MARK))
    before, mark, after = rendered_mark.partition(_MARK)
    body = next((content for content in (text, text.strip()) if mark and chat == before + content + after), None)
    if body is None:
        raise ValueError("the chat template changes the text of a user turn; run this model without --chat-template.")
    bos = tokenizer.bos_token or ""
    n_cut = len(bos) if before.startswith(bos) else 0
    moved = np.clip(context.spans - text.index(body), 0, len(body))  # templates may strip a turn
    return Context(chat[n_cut:], context.stimulus_ids, moved + len(before) - n_cut)


def _rendered(tokenizer: Any, content: str) -> str:
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False))
    except TemplateError as error:
        raise ValueError(
            f"the chat template cannot render a user turn ({error}); run this model without --chat-template."
        ) from error


def _require_tokens(context: Context, without: Sequence[int]) -> None:
    """Raise if stimuli with a text have no token, since their rows would contain the features of another word."""
    if not without:
        return
    start, end = context.spans[without[0]]
    text = context.text[start:end]
    raise ValueError(
        f"stimulus {context.stimulus_ids[without[0]]!r} has no token: the tokenizer drops {text!a} from every text; "
        "leave it out of the data set, or join it to the word before it."
    )


def require_fit(ids: Integers, tokenizer: Any, n_embeddings: int | None) -> None:
    """Raise ValueError if many tokens are unknown, or the model has no embedding for one."""
    unknown = np.isin(ids, sorted(tokenizer_facts.of(tokenizer).unknown))
    fraction = float(np.mean(unknown)) if len(ids) else 0.0
    if fraction > MAX_UNKNOWN_SHARE:
        raise ValueError(
            f"the tokenizer maps {fraction:.0%} of the text to its unknown token; it does not fit this text or this "
            "model: put the model's own tokenizer.json into its folder."
        )
    if n_embeddings is not None and len(ids) and ids.max() >= n_embeddings:
        raise ValueError(
            f"the tokenizer does not fit the model: it gives a token with id {ids.max()}, the model has {n_embeddings} "
            "embeddings. Put the model's own tokenizer into its folder."
        )


def windows(n_tokens: int, size: int, overlap: float = 0.5) -> list[tuple[int, int, int]]:
    """Cut a token sequence into windows that fit a model.

    Args:
        n_tokens: length of the sequence, including BOS.
        size: maximum number of tokens in a window.
        overlap: fraction of a window shared with the previous one. Every later token has at least this fraction of
            `size` as context.

    Returns:
        (start, end, first) of each window: it holds tokens start..end-1, and its results are used for first..end-1.

    Raises:
        ValueError: if the size is under 2 or the overlap is not in [0, 1).
    """
    if size < 2:
        raise ValueError(f"a window holds {max(size, 0)} tokens after its BOS; 2 or more are wanted: enlarge it.")
    if not 0 <= overlap < 1:
        raise ValueError(f"windows overlap by {overlap}; use a fraction of at least 0 and less than 1.")
    step = min(max(1, round(size * (1 - overlap))), size - 1)  # the first token of a window has no probability in it
    cuts = [(0, min(size, n_tokens), 0)]
    while cuts[-1][1] < n_tokens:
        start = cuts[-1][0] + step
        cuts.append((start, min(start + size, n_tokens), cuts[-1][1]))
    return cuts


@dataclass(frozen=True)
class Window:
    """Tokens of one forward pass of a causal stack.

    Attributes:
        ids: `n_prefix` tokens (BOS and prompt), then tokens of the context from `start`.
        context: index of the context.
        start: first token of the context in the window.
        first: first token for which this window's results are used.
        at, rows: positions in `ids` that are pooled, and the row (stimulus over all contexts) of each.
        n_prefix: number of tokens of BOS and prompt at the beginning.
        is_end: whether the window ends with the text.
        retokenised: the retokenised stimulus that this window is for; -1 for a window of the whole text.
    """

    ids: Integers
    context: int
    start: int
    first: int
    at: Integers
    rows: Integers
    n_prefix: int = 0
    is_end: bool = False
    retokenised: int = -1


def cut(
    tokens: Sequence[Tokens], limit: int, prefix: Sequence[int], overlap: float, pooling: str, bos: str = "window"
) -> list[Window]:
    """All windows of all contexts, and one more for each retokenised stimulus.

    Windows without any stimulus are skipped.

    Args:
        tokens: one per context.
        limit: maximum number of tokens in a window, including the prefix and the prompt of the context, if it has one.
            The prompt stands in every window, so that no stimulus is read without it.
        prefix: special token ids before a text (BOS).
        overlap: see `windows`.
        pooling: "last"; otherwise all tokens of a stimulus are pooled.
        bos: which windows begin with the prefix: all ("window"), the first of a text ("text"), or none ("none").
    """
    if bos not in {"window", "text", "none"}:
        raise ValueError(f"bos {bos!r} is unknown; use window, text or none.")
    begin = np.asarray(prefix if bos != "none" else (), dtype=np.int64)
    result, row = [], 0
    for context, encoded in enumerate(tokens):
        at, stimuli = _pooled(encoded, pooling)
        last, n, size = encoded.last[stimuli], encoded.n_prompt, limit - len(begin) - encoded.n_prompt
        if n and size < 2:
            raise ValueError(f"a prompt of {n} tokens leaves no room in a window of {limit}; shorten it.")
        at_start = np.concatenate([begin, encoded.ids[:n]])
        later = at_start[len(begin) :] if bos == "text" else at_start
        bounds = [(start + n, end + n, first + n) for start, end, first in windows(len(encoded.ids) - n, size, overlap)]
        for start, end, first in bounds:
            inside = (last >= first) & (last < end) & (at >= start)
            if not inside.any() and not (encoded.owners[first:end] >= 0).any():
                continue
            before = later if start > n else at_start
            ids, pooled = np.concatenate([before, encoded.ids[start:end]]), at[inside] - start + len(before)
            is_end = end == len(encoded.ids)
            result.append(Window(ids, context, start, first, pooled, row + stimuli[inside], len(before), is_end))
        for stimulus, own in encoded.retokenised.items():
            ids, pooled = prefix_of(encoded, stimulus)
            start = max(next(s for s, end, _ in bounds if len(ids) <= end or end == len(encoded.ids)), len(ids) - size)
            before = later if start > n else at_start
            pooled = (pooled[-1:] if pooling == "last" else pooled[pooled >= start]) - start + len(before)
            text, rows = np.concatenate([before, ids[start:]]), np.full(len(pooled), row + stimulus)
            result.append(Window(text, context, start, own.n_kept, pooled, rows, len(before), True, stimulus))
        row += len(encoded.stimulus_ids)
    return result


def _pooled(encoded: Tokens, pooling: str) -> tuple[Integers, Integers]:
    """Positions whose hidden states are pooled in the common pass, and the stimulus of each.

    A position may serve several stimuli: an empty stimulus uses the last token of the preceding text.
    """
    in_common_pass = np.array([k not in encoded.retokenised for k in range(len(encoded.last))], dtype=bool)
    by_last = in_common_pass & (encoded.last >= 0)  # stimuli pooled by their last token
    if pooling == "last":
        return encoded.last[by_last], np.flatnonzero(by_last)
    by_last &= ~np.isin(np.arange(len(encoded.last)), encoded.owners)  # only those without tokens of their own
    own = np.flatnonzero((encoded.owners >= 0) & np.append(in_common_pass, False)[encoded.owners])
    return np.append(own, encoded.last[by_last]), np.append(encoded.owners[own], np.flatnonzero(by_last))


def source_of(encoded: Tokens, prefix: Integers, limit: int) -> tuple[Integers, int]:
    """What an encoder reads of a prefix: the prompt, the last tokens that fit, and the end of the prompt.

    Args:
        encoded: tokens of the context.
        prefix: (token,) ids from `prefix_of`.
        limit: maximum number of tokens.

    Returns:
        (token,) ids, and the number of tokens after the prompt that were left out.

    Raises:
        ValueError: if the prompt leaves no room for the text.
    """
    n, after = encoded.n_prompt, np.asarray(encoded.after, dtype=np.int64)
    if limit - len(after) <= n and (n or len(after)):
        raise ValueError(f"a prompt of {n + len(after)} tokens leaves no room in a window of {limit}; shorten it.")
    n_dropped = max(0, len(prefix) - (limit - len(after)))
    return np.concatenate([prefix[:n], prefix[n + n_dropped :], after]), n_dropped


def prefix_of(encoded: Tokens, stimulus: int) -> tuple[Integers, Integers]:
    """Token ids of the prefix that ends with a stimulus.

    Args:
        encoded: tokens of the context.
        stimulus: index of the stimulus; -1 for the text before the first stimulus.

    Returns:
        (token,) ids of the prefix, and the positions of the stimulus's own tokens in it; for a stimulus without a token
        the position of the last preceding token, if there is one.
    """
    if stimulus in encoded.retokenised:
        own = encoded.retokenised[stimulus]
        ids = np.concatenate([encoded.ids[: own.n_kept], own.ids])
        return ids, np.arange(len(ids) - own.n_own, len(ids))
    if stimulus < 0:
        n_before = int(np.argmax(encoded.owners >= 0)) if len(encoded.ids) else 0
        return encoded.ids[:n_before], np.zeros(0, dtype=np.int64)
    end = max(prefix_of(encoded, -1)[0].size, int(encoded.last[: stimulus + 1].max()) + 1)
    positions = np.flatnonzero(encoded.owners[:end] == stimulus)
    has_none_before = encoded.last[stimulus] < 0
    return encoded.ids[:end], positions if len(positions) or has_none_before else np.array([end - 1])
