"""Noise ceilings from repeated presentations of the same texts.

With ev the explainable variance of single responses (the mean correlation of two presentations), the mean of n
presentations has the reliability n ev / (1 + (n - 1) ev) (Spearman-Brown), and a perfect model reaches an r of its
square root. If the number differs between texts, n is its harmonic mean, since the noise of a row is divided by its own
number.

Method: harness/scoring/README.md#repeated-texts.
Source: Sahani & Linden 2003; Schoppe et al. 2016; Spearman 1910 and Brown 1910.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from harness.kernels.metrics import explainable_variance
from harness.records import Floats, Repetitions, Responses
from harness.scoring import intervals

# With fewer texts that were presented twice, there is no ceiling from repetitions.
MIN_TEXTS = 10
EXPLAINABLE = "explainable variance"
_TENTHS = 10


def of_repetitions(repetitions: Repetitions, responses: Responses) -> tuple[Floats, Floats, Floats, str]:
    """Ceiling of r for every neuroid, and its 95 % interval for other texts.

    Args:
        repetitions: responses to single presentations.
        responses: the rows that are scored: means over presentations, or single presentations.

    Returns:
        (neuroid,) the square root of the reliability of a row; lower and upper ends (a jackknife of the reliability
        that leaves out a tenth of the texts); and what it is in words. A negative reliability keeps its sign, so that
        medians over neuroids without signal are not biased upwards. NaN where fewer than `MIN_TEXTS` texts have two
        responses.
    """
    values = repetitions.values
    n = _harmonic_mean(repetitions, responses) if repetitions.are_averaged else np.ones(values.shape[2])
    reliability = _of_mean(single_response(values), n)
    tenths = np.array_split(np.arange(values.shape[1]), _TENTHS)
    without = np.stack([_of_mean(single_response(np.delete(values, texts, axis=1)), n) for texts in tenths])
    spread = (_TENTHS - 1) * without.std(axis=0, ddof=1) / np.sqrt(_TENTHS)
    half = intervals.t_quantile(0.975, _TENTHS - 1) * spread
    kind = f"{EXPLAINABLE} of {repetitions.in_words}"
    if not repetitions.are_averaged:
        kind += ", for single responses"
    value, low, high = (signed_root(reliability + shift) for shift in (0.0, -half, half))
    return value, low, high, kind


def _of_mean(ev: Floats, n: Floats) -> Floats:
    """Reliability of the mean of n responses (Spearman-Brown)."""
    reliability: Floats = n * ev / (1.0 + (n - 1.0) * ev)
    return reliability


def signed_root(reliability: Floats) -> Floats:
    """The r that a perfect model reaches; a negative reliability keeps its sign."""
    root: Floats = np.sign(reliability) * np.sqrt(np.abs(reliability))
    return root


def single_response(values: Floats) -> Floats:
    """Explainable variance of single responses.

    Args:
        values: (repetition, text, neuroid), NaN where there is none.

    Returns:
        (neuroid,) mean over pairs of repetitions of the explainable variance of the pair, weighted by the number of
        texts that have a response in both; without NaN equal to `explainable_variance` of all repetitions. NaN where no
        pair has `MIN_TEXTS` texts.
    """
    total, weight = np.zeros((2, values.shape[2]))
    for first, second in combinations(range(len(values)), 2):
        pair = values[[first, second]].astype(np.float64)
        for texts, neuroids in _measured_alike(np.asarray(np.isfinite(pair).all(axis=0))):
            if (n_texts := int(texts.sum())) >= MIN_TEXTS:
                ev = explainable_variance(pair[:, texts][:, :, neuroids])
                measured = np.isfinite(ev)
                total[neuroids] += np.where(measured, n_texts * ev, 0.0)
                weight[neuroids] += n_texts * measured
    mean: Floats = total / np.where(weight > 0, weight, np.nan)
    return mean


def _harmonic_mean(repetitions: Repetitions, responses: Responses) -> Floats:
    """(neuroid,) harmonic mean over rows of the number of responses that a row is the mean of."""
    numbers = np.isfinite(repetitions.values).sum(axis=0)
    n_single = np.isfinite(responses.values[repetitions.n_of_row == 1]).sum(axis=0)
    inverse = np.where(numbers > 0, 1.0 / np.maximum(numbers, 1), 0.0).sum(axis=0) + n_single
    n_rows = (numbers > 0).sum(axis=0) + n_single
    mean: Floats = n_rows / np.where(inverse > 0, inverse, np.nan)
    return mean


def _measured_alike(present: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Group the columns of (text, neuroid) by their rows: yields (text,) and (neuroid,) masks."""
    patterns, of_neuroid = np.unique(present, axis=1, return_inverse=True)
    for k, texts in enumerate(patterns.T):
        yield texts, of_neuroid.reshape(-1) == k
