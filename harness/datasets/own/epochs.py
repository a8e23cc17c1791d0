"""Cuts a continuous recording (EEG, MEG, ECoG) into epochs of words: a row per word, a neuroid per channel and lag.

    {"epochs": {"lags_ms": [100, 200, 300, 400, 500, 600], "window_ms": 100, "baseline_ms": [-200, 0]}}

The value of a channel at a lag is its mean over the window centred there, counted from the onset of the word, minus its
mean over the baseline. Neuroids are called "Cz@400ms", and their roi is "400 ms", so that every lag is a target of its
own: the scores by target are a time course.

The samples are the rows of tables, or files that `sensors.py` reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from harness.records import Floats, Responses, Stimuli


@dataclass(frozen=True)
class EpochSettings:
    """`epochs` of dataset.json, in milliseconds from the onset of a word.

    Attributes:
        lags_ms: centres of the windows.
        window_ms: length of a window.
        baseline_ms: first and last time of the baseline; None for none.
    """

    lags_ms: tuple[float, ...]
    window_ms: float = 100.0
    baseline_ms: tuple[float, float] | None = None

    @property
    def length_s(self) -> float:
        """Time from the first sample that counts to the last, in seconds."""
        edges = [lag + side * self.window_ms / 2 for lag in self.lags_ms for side in (-1, 1)] + [
            *(self.baseline_ms or ())
        ]
        return float(max(edges) - min(edges)) / 1000.0

    @property
    def in_words(self) -> str:
        """What a value is."""
        baseline = "" if self.baseline_ms is None else " minus {:g} to {:g} ms".format(*self.baseline_ms)
        return f"mean over {self.window_ms:g} ms{baseline}"


# For files of samples without settings.
DEFAULT = EpochSettings((100.0, 200.0, 300.0, 400.0, 500.0, 600.0))


def cut(stimuli: Stimuli, responses: Responses, options: EpochSettings, notes: list[str]) -> Responses:
    """Cut the samples of a recording into epochs.

    Args:
        stimuli: words with onsets.
        responses: (sample, channel), with times; NaN where a sample was rejected. Windows without a sample are NaN.
        options: windows.
        notes: list to which notes are appended.

    Returns:
        (word, channel and lag) responses, of the words of which any window has samples.

    Raises:
        ValueError: if no window of any word has a sample, or windows are shorter than a sample.
    """
    assert stimuli.onsets_s is not None  # noqa: S101 - read with the samples
    assert responses.times_s is not None  # noqa: S101 - rows are samples
    n_channels = responses.values.shape[1]
    values = np.full((len(stimuli), len(options.lags_ms), n_channels), np.nan, dtype=np.float32)
    passages, blocks = np.array(stimuli.passages), np.array(responses.row_blocks)
    for block in dict.fromkeys(responses.row_blocks):
        samples = np.flatnonzero(blocks == block)
        words = np.flatnonzero(passages == block) if block in stimuli.passages else np.arange(len(stimuli))
        times = responses.times_s[samples]
        require_samples(times, options, f"block {block!r}")
        values[words] = of_run(stimuli.onsets_s[words], times, responses.values[samples], options)
    unit = responses.unit if responses.unit != "not stated" else options.in_words
    channels = Channels(responses.neuroid_ids, responses.subjects, responses.rois)
    return as_responses(stimuli, values, channels, options, unit, notes)


class Channels(NamedTuple):
    """Names, subjects and rois of the channels of a recording, each (channel,)."""

    names: tuple[str, ...]
    subjects: tuple[str, ...]
    rois: tuple[str, ...]


def as_responses(
    stimuli: Stimuli, values: Floats, channels: Channels, options: EpochSettings, unit: str, notes: list[str]
) -> Responses:
    """The responses of words that have any.

    Args:
        stimuli: the words.
        values: (word, lag, channel); NaN without a sample.
        channels: the channels.
        options: windows.
        unit: of the values.
        notes: list to which a note on words without a row is appended.

    Raises:
        ValueError: if no word has a sample in any window.
    """
    flat = values.reshape(len(stimuli), -1)
    kept = np.flatnonzero(np.isfinite(flat).any(axis=1))
    if not len(kept):
        raise ValueError("epochs: no word has a sample in any window; do samples and words share a clock?")
    n_without = len(stimuli) - len(kept)
    notes += [f"{n_without} words have no sample in any window, and no row."] if n_without else []
    ids, groups, passages = (
        tuple(column[row] for row in kept) for column in (stimuli.ids, stimuli.groups, stimuli.passages)
    )
    return Responses(
        flat[kept], ids, groups, passages,
        tuple(f"{channel}@{lag:g}ms" for lag in options.lags_ms for channel in channels.names),
        channels.subjects * len(options.lags_ms),
        tuple(f"{roi} {lag:g} ms".strip() for lag in options.lags_ms for roi in channels.rois),
        unit,
    )  # fmt: skip


def require_samples(times: Floats, options: EpochSettings, where: str) -> None:
    """Raise if a window is shorter than the time between two samples; `where` they are, for the message."""
    step_ms = 1000.0 * float(np.median(np.diff(np.sort(times)))) if len(times) > 1 else np.inf
    lengths = [options.window_ms] + ([np.diff(options.baseline_ms)[0]] if options.baseline_ms else [])
    if min(lengths) < step_ms:
        raise ValueError(
            f"epochs: a window of {min(lengths):g} ms is shorter than the {step_ms:g} ms between samples of "
            f'{where}; give longer windows. Epochs are for EEG, MEG and ECoG; for scans give "response".'
        )


def of_run(onsets: Floats, times: Floats, values: Floats, options: EpochSettings) -> Floats:
    """Epochs of one run.

    Args:
        onsets: (word,) in seconds.
        times: (sample,) in seconds, ascending.
        values: (sample, channel), NaN where a sample was rejected.
        options: windows.

    Returns:
        (word, lag, channel), NaN where a window has no sample.
    """
    lags, half = np.array(options.lags_ms) / 1000.0, options.window_ms / 2000.0
    means = _means(values, times, onsets[:, None] + lags - half, onsets[:, None] + lags + half)
    if options.baseline_ms is None:
        return means
    first, last = (onsets[:, None] + edge / 1000.0 for edge in options.baseline_ms)
    return means - _means(values, times, first, last)


def _means(values: Floats, times: Floats, first: Floats, last: Floats) -> Floats:
    """(word, window, channel) means over the samples with first <= time < last; NaN without any."""
    present = np.isfinite(values)
    centre = np.where(present, values, 0.0).sum(axis=0, dtype=float) / np.maximum(present.sum(axis=0), 1)
    zero = np.zeros((1, values.shape[1]))
    sums = np.concatenate([zero, np.where(present, values - centre, 0.0).cumsum(axis=0, dtype=float)])
    counts = np.concatenate([zero, present.cumsum(axis=0)])
    rounding = 1e-9 * max(float(np.abs(times).max()), 1.0)
    start, stop = (np.searchsorted(times, edge - rounding) for edge in (first, last))
    total, count = sums[stop] - sums[start], counts[stop] - counts[start]
    means: Floats = total / np.where(count > 0, count, np.nan) + centre
    return means
