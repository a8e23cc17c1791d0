"""What a model expects along a text, written down where its windows answer for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from harness.extraction.heads import N_SAID, Head
from harness.records import Floats, Integers, Predictions
from harness.text.tokens import Window


def note(
    expected: Sequence[Predictions], batch: Sequence[Window], final: torch.Tensor, ids: torch.Tensor, head: Head
) -> None:
    """Write down what is expected of the tokens that the windows answer for, and of what follows the last of a text.

    Nothing is expected of a first token that nothing precedes.

    Args:
        expected: one per context.
        batch: the windows.
        final: (window, token, .) what the head is applied to.
        ids: (window, token) padded.
        head: of the model.
    """
    fresh = [_fresh(window) for window in batch]
    said = _said(fresh, [window.n_prefix for window in batch], final, ids, head)
    for window, at, own in zip(batch, fresh, said, strict=True):
        whole = expected[window.context]
        target = whole if window.apart < 0 else whole.apart[window.apart]
        write(target, at + window.start - (0 if window.apart < 0 else window.first), own)


def _fresh(window: Window) -> Integers:
    """Tokens of a window, from the beginning of its text, before which it answers for what is expected."""
    n = len(window.ids) - window.n_prefix
    return np.arange(max(window.first - window.start, 1 - window.n_prefix), n + window.is_end)


def note_stimuli(
    expected: Sequence[Predictions],
    places: Sequence[tuple[int, int, int]],
    final: torch.Tensor,
    ids: torch.Tensor,
    head: Head,
) -> None:
    """Write down what is expected along each stimulus of a batch that was read by itself.

    places: context, stimulus and number of tokens of each; they are the last of the unpadded row of `ids`.
    """
    fresh = [np.arange(n + 1) for *_, n in places]
    said = _said(fresh, [1] * len(places), final, ids, head)
    for (context, stimulus, n), at, own in zip(places, fresh, said, strict=True):
        if n:
            expected[context].apart[stimulus] = Predictions.unknown(n)
            write(expected[context].apart[stimulus], at, own)


def _said(
    fresh: Sequence[Integers], n_prefix: Sequence[int], final: torch.Tensor, ids: torch.Tensor, head: Head
) -> list[Floats]:
    """Of each sequence (position, 4): of a token, by the state before it; of the end, whatever token is asked for."""
    sequence = torch.from_numpy(np.repeat(np.arange(len(fresh)), [len(at) for at in fresh])).to(ids.device)
    at = torch.from_numpy(np.concatenate([at + n for at, n in zip(fresh, n_prefix, strict=True)])).to(ids.device)
    wanted = ids[sequence, at.clamp_max(ids.shape[1] - 1)]
    found = head.said(final[sequence.to(final.device), (at - 1).to(final.device)], wanted)
    values: Floats = found.double().cpu().numpy().reshape(-1, N_SAID)
    return np.split(values, np.cumsum([len(part) for part in fresh])[:-1])


def write(target: Predictions, at: Integers, said: Floats) -> None:
    """(position, 4) of the tokens before which they stand; one past the last token is the end."""
    kept = at >= 0
    at, said = at[kept], said[kept]
    inside = at < len(target.log_probabilities)
    target.log_probabilities[at[inside]], target.ranks[at[inside]] = said[inside, 0], said[inside, 1]
    target.entropies[at], target.breaks[at] = said[:, 2], said[:, 3]
