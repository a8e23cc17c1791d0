"""Record a model's next-token statistics in the `Predictions` of each context."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from harness.extraction.heads import N_STATISTICS, Head
from harness.records import Floats, Integers, Predictions, Tokens
from harness.text.tokens import Window


def unknown(tokens: Sequence[Tokens], windows: Sequence[Window] = ()) -> tuple[Predictions, ...]:
    """Predictions of each context, all NaN; also those of the retokenised stimuli that windows are for."""
    predictions = tuple(Predictions.unknown(len(context_tokens.ids)) for context_tokens in tokens)
    for window in windows:
        if window.retokenised >= 0:
            n_own = len(tokens[window.context].retokenised[window.retokenised].ids)
            predictions[window.context].retokenised[window.retokenised] = Predictions.unknown(n_own)
    return predictions


def record_windows(
    predictions: Sequence[Predictions], batch: Sequence[Window], final: torch.Tensor, ids: torch.Tensor, head: Head
) -> None:
    """Record statistics for the tokens that windows answer for, and for what follows the last token of a text.

    A first token without BOS has no prediction.

    Args:
        predictions: one per context.
        batch: the windows.
        final: (window, token, .) input of the head.
        ids: (window, token) padded.
        head: the model's head.
    """
    all_positions = [positions(window) for window in batch]
    statistics = _statistics(all_positions, [window.n_prefix for window in batch], final, ids, head)
    for window, window_statistics in zip(batch, statistics, strict=True):
        record_window(predictions, window, window_statistics)


def positions(window: Window) -> Integers:
    """Tokens of a window that it answers for, counted from the start of its text; one more at the end of a text."""
    n_tokens = len(window.ids) - window.n_prefix
    return np.arange(max(window.first - window.start, 0 if window.n_prefix else 1), n_tokens + window.is_end)


def record_window(predictions: Sequence[Predictions], window: Window, statistics: Floats) -> None:
    """Record (position, 4) statistics of the tokens that a window answers for (`positions`)."""
    target, at = predictions[window.context], positions(window) + window.start
    if window.retokenised >= 0:
        target, at = target.retokenised[window.retokenised], at - window.first
    _write(target, at, statistics)


def record_stimuli(
    predictions: Sequence[Predictions], places: Sequence[tuple[int, int, int]], final: torch.Tensor, ids: torch.Tensor,
    head: Head, n_prefix: int,
) -> None:  # fmt: skip
    """Record statistics along each stimulus of a batch of single stimuli.

    Args:
        predictions: one per context.
        places: context, stimulus and number of tokens of each stimulus.
        final: (stimulus, token, .) input of the head.
        ids: (stimulus, token) padded; the decoder's prefix, then the stimulus.
        head: the model's head.
        n_prefix: tokens of the prefix; T5 has one, BART two.
    """
    along = [np.arange(n_tokens + 1) for *_, n_tokens in places]
    statistics = _statistics(along, [n_prefix] * len(places), final, ids, head)
    for (context, stimulus, n_tokens), at, stimulus_statistics in zip(places, along, statistics, strict=True):
        if n_tokens:
            predictions[context].retokenised[stimulus] = Predictions.unknown(n_tokens)
            _write(predictions[context].retokenised[stimulus], at, stimulus_statistics)


def _statistics(
    positions: Sequence[Integers], n_prefix: Sequence[int], final: torch.Tensor, ids: torch.Tensor, head: Head
) -> list[Floats]:
    """Per sequence (position, 4) statistics of each token, from the state before it.

    At the end of a text there is no next token; its log-probability and rank are computed but not used.
    """
    sequence = torch.from_numpy(np.repeat(np.arange(len(positions)), [len(at) for at in positions])).to(ids.device)
    index = np.concatenate([at + n for at, n in zip(positions, n_prefix, strict=True)])
    at = torch.from_numpy(index).to(ids.device)
    next_ids = ids[sequence, at.clamp_max(ids.shape[1] - 1)]
    statistics = head.statistics(final[sequence.to(final.device), (at - 1).to(final.device)], next_ids)
    values: Floats = statistics.double().cpu().numpy().reshape(-1, N_STATISTICS)
    return np.split(values, np.cumsum([len(at) for at in positions])[:-1])


def _write(target: Predictions, at: Integers, statistics: Floats) -> None:
    """Write (position, 4) statistics before the tokens `at`; one past the last token is the end of the text."""
    is_kept = at >= 0
    at, statistics = at[is_kept], statistics[is_kept]
    is_token = at < len(target.log_probabilities)
    target.log_probabilities[at[is_token]] = statistics[is_token, 0]
    target.ranks[at[is_token]] = statistics[is_token, 1]
    target.entropies[at], target.breaks[at] = statistics[:, 2], statistics[:, 3]
