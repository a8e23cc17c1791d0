"""Unique variance on recordings whose answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from harness.datasets import brennan2016, synthetic
from harness.features import controls
from harness.protocol import FoldRule
from harness.records import Dataset, Features, Layer, Responses, Stimuli
from harness.scoring import aggregate, brain_scores
from harness.scoring.unique_variance import over_controls

LAYER = Layer("decoder", 1)
CONTIGUOUS = brennan2016.STRICT.folds
STRICT = replace(synthetic.STRICT, sampling=None)
N, V = 240, 8


def slow(rng, shape, persistence=0.5):
    """First-order autoregression over rows, of unit variance."""
    values = rng.standard_normal(shape)
    for row in range(1, len(values)):
        values[row] = persistence * values[row - 1] + (1 - persistence**2) ** 0.5 * values[row]
    return values


def standardised(values):
    return (values - values.mean(axis=0)) / values.std(axis=0)


def recording(values, rows_per_passage) -> Dataset:
    ids = tuple(f"row {i}" for i in range(len(values)))
    passages = tuple(f"passage {i // rows_per_passage}" for i in range(len(values)))
    neuroids = tuple(f"n{i}" for i in range(values.shape[1]))
    ones = ("one",) * values.shape[1]
    responses = Responses(values.astype(np.float32), ids, passages, passages, neuroids, ones, ones, "z")
    return Dataset("made up", "0", Stimuli(ids, tuple(f"word{i}" for i in range(len(ids))), passages), responses)


def of_time(dataset, *names):
    return {name: controls.features(name, dataset, 0) for name in names}


def scores(found):
    """Unique, controls' and joint R2: median over neuroids, mean over folds."""
    return tuple(float(np.median(v, axis=1).mean()) for v in (found.unique, found.controls, found.joint))


@pytest.mark.parametrize("seed", range(3))
def test_a_session_drift_is_taken_by_the_drift_control_and_leaves_a_model_nothing(seed):
    """Passages in order of presentation, held out whole; the model's states drift too; there is no language."""
    rng = np.random.default_rng(seed)
    drift = standardised(np.cumsum(rng.standard_normal((N, V)), axis=0))
    dataset = recording(drift + 0.5 * rng.standard_normal((N, V)), 5)
    clock = standardised(np.cumsum(rng.standard_normal((N, 3)), axis=0))  # for instance a plot that unfolds
    model = Features({LAYER: np.hstack([clock, rng.standard_normal((N, 20))])}, dataset.responses.row_ids)
    time = controls.features("drift", dataset, 0)
    r = {name: max(np.nanmedian(fit.r) for fit in brain_scores.score_layers(x, dataset.responses, STRICT).values())
         for name, x in (("model", model), ("drift", time))}  # fmt: skip
    assert r["model"] > 0.2  # what looks like alignment
    assert r["drift"] > r["model"]
    without = over_controls(model, LAYER, of_time(dataset, "position", "oasm"), dataset.responses, STRICT)
    beyond = over_controls(model, LAYER, of_time(dataset, "position", "oasm", "drift"), dataset.responses, STRICT)
    assert scores(without)[0] > 0.1
    assert scores(beyond)[1] > 0.5
    assert abs(scores(beyond)[0]) < 0.02


def far_apart(seed, of_model):
    """One story in five blocks of time; slow drift, which position and OASM follow and extrapolate badly."""
    rng = np.random.default_rng(seed)
    X = slow(rng, (N, 20))
    signal = standardised(X[:, :6] @ rng.standard_normal((6, V)))
    drift = standardised(np.cumsum(rng.standard_normal((N, V)), axis=0))
    dataset = recording(of_model * signal + 0.6 * drift + 0.6 * slow(rng, (N, V), 0.4), N)
    return dataset, Features({LAYER: X}, dataset.responses.row_ids)


@pytest.mark.parametrize("of_model", [0.0, 0.6])
def test_controls_that_extrapolate_badly_do_not_add_to_the_model(of_model):
    protocol, found = replace(STRICT, folds=CONTIGUOUS), []
    for seed in range(4):
        dataset, model = far_apart(seed, of_model)
        over = over_controls(model, LAYER, of_time(dataset, "position", "oasm"), dataset.responses, protocol)
        unique, _, joint = scores(over)
        assert unique <= joint + 0.02
        found.append(unique)
    assert -0.1 < np.mean(found) < 0.02 if of_model == 0 else 0.05 < np.mean(found) < 0.3


def test_a_model_that_is_the_control_explains_nothing():
    rng = np.random.default_rng(0)
    C = slow(rng, (N, 3))
    dataset = recording(standardised(C @ rng.standard_normal((3, V))) + slow(rng, (N, V), 0.3), 6)
    ids = dataset.responses.row_ids
    model = Features({LAYER: np.hstack([C, 0.2 * rng.standard_normal((N, 20))])}, ids)
    found = over_controls(model, LAYER, {"same": Features({Layer("same", 0): C}, ids)}, dataset.responses, STRICT)
    unique, of_controls, joint = scores(found)
    assert of_controls > 0.3
    assert joint > 0.3
    assert abs(unique) < 0.02


def test_experiments_are_fitted_apart_and_a_model_needs_controls():
    rng = np.random.default_rng(0)
    whole = recording(rng.standard_normal((N, V)), 6)
    two = replace(whole.responses, row_parts=("a",) * 120 + ("b",) * 120)
    model = Features({LAYER: rng.standard_normal((N, 10))}, two.row_ids)
    protocol = replace(STRICT, folds=FoldRule("grouped", n=4))
    found = over_controls(model, LAYER, of_time(whole, "position"), two, protocol)
    assert found.parts == ("a",) * 4 + ("b",) * 4
    assert aggregate.medians(found.unique).shape == (8,)
    with pytest.raises(ValueError, match="no controls given"):
        over_controls(model, LAYER, {}, two, protocol)
