"""Ceilings from repeated presentations."""

from __future__ import annotations

import numpy as np
import pytest

from harness.kernels.metrics import explainable_variance
from harness.records import Repetitions, Responses
from harness.scoring import explainable


def presented(signal, n_repetitions, n_texts=400, n_neuroids=40, seed=0):
    """Responses with a fraction `signal` of variance that repeats, and the signal: (repetition, text, neuroid)."""
    rng = np.random.default_rng(seed)
    shared = np.sqrt(signal) * rng.standard_normal((n_texts, n_neuroids))
    noise = np.sqrt(1 - signal) * rng.standard_normal((n_repetitions, n_texts, n_neuroids))
    return (shared + noise).astype(np.float32), shared


def rows(values):
    """Responses whose rows are the means over repetitions."""
    means = np.nanmean(values, axis=0).astype(np.float32)
    n_texts, n_neuroids = means.shape
    ids, names = tuple(map(str, range(n_texts))), tuple(f"v{k}" for k in range(n_neuroids))
    return Responses(means, ids, ids, ids, names, ("a",) * n_neuroids, ("",) * n_neuroids, "z")


def counts(values):
    return np.isfinite(values).any(axis=2).sum(axis=0)


def test_without_missing_values_it_is_the_explainable_variance_of_the_kernels():
    values, _ = presented(0.3, 4)
    np.testing.assert_allclose(explainable.single_response(values), explainable_variance(values), rtol=1e-6)


@pytest.mark.parametrize("signal", [0.1, 0.4])
def test_the_ceiling_is_the_r_of_the_true_signal(signal):
    """r of the signal itself with the rows; mean over 40 neuroids of 400 texts, so that the error is about 0.01."""
    values, shared = presented(signal, 3)
    responses = rows(values)
    attained = np.mean([np.corrcoef(shared[:, k], responses.values[:, k])[0, 1] for k in range(40)])
    ceiling, _, _, kind = explainable.of_repetitions(Repetitions(values, counts(values), True), responses)
    assert ceiling.mean() == pytest.approx(attained, abs=0.02)
    assert ceiling.mean() == pytest.approx(np.sqrt(3 * signal / (1 + 2 * signal)), abs=0.02)
    assert kind == "explainable variance of 3 repetitions"
    single, _, _, kind = explainable.of_repetitions(Repetitions(values, np.ones(1200, dtype=int), False), responses)
    assert single.mean() == pytest.approx(np.sqrt(signal), abs=0.02)
    assert kind == "explainable variance of 3 repetitions, for single responses"


def test_the_interval_covers_the_true_ceiling_of_most_neuroids():
    """Nominal 95 % of 40 neuroids."""
    values, _ = presented(0.3, 3)
    _, low, high, _ = explainable.of_repetitions(Repetitions(values, counts(values), True), rows(values))
    true = np.sqrt(0.9 / 1.6)
    assert np.mean((low < true) & (true < high)) >= 0.85
    assert np.mean(high - low) < 0.2


def test_texts_presented_less_often_lower_the_ceiling_to_the_r_of_the_true_signal():
    values, shared = presented(0.3, 4, n_texts=600)
    values[2:, 200:] = np.nan
    values[1:, 400:, :10] = np.nan
    responses = rows(values)
    ceiling, _, _, kind = explainable.of_repetitions(Repetitions(values, counts(values), True), responses)
    attained = np.array([np.corrcoef(shared[:, k], responses.values[:, k])[0, 1] for k in range(40)])
    assert kind == "explainable variance of 2 to 4 repetitions"
    assert ceiling[10:].mean() == pytest.approx(attained[10:].mean(), abs=0.02)
    assert ceiling[:10].mean() == pytest.approx(attained[:10].mean(), abs=0.03)
    assert ceiling[:10].mean() < ceiling[10:].mean()


def test_noise_has_a_ceiling_of_0_on_average_and_few_texts_have_none():
    values, _ = presented(0.0, 3)
    ceiling, low, high, _ = explainable.of_repetitions(Repetitions(values, counts(values), True), rows(values))
    assert abs(np.median(ceiling)) < 0.1
    assert (ceiling < 0).any()
    assert np.mean((low < 0) & (high > 0)) >= 0.8
    few = values[:, : explainable.MIN_TEXTS - 1]
    assert np.isnan(explainable.of_repetitions(Repetitions(few, counts(few), True), rows(few))[0]).all()
