"""Held-out predictions and weights of the chosen layer: the same fits as the scores, and the same as scikit-learn."""

from dataclasses import replace

import numpy as np
import pytest

from harness.features.principal_components import RowReduction
from harness.kernels.metrics import pearson_r
from harness.protocol import BRAINSCORE_RIDGE, WIDE_RIDGE, FoldRule, Protocol, Regression
from harness.records import Features, Layer, Responses
from harness.scoring import held_out
from harness.scoring.brain_scores import score_layers

N, P, V = 80, 6, 5
PROTOCOLS = {
    "ridge": Protocol("strict", "none", FoldRule("grouped", n=4), WIDE_RIDGE, "nested"),
    "one alpha": Protocol("brainscore2026", "none", FoldRule("kfold", n=4), BRAINSCORE_RIDGE, "max"),
    "least squares": Protocol("paper", "none", FoldRule("shuffled", n=4), Regression("ols"), "max"),
    "sides": Protocol(
        "paper", "none", FoldRule("contiguous", n=4), replace(WIDE_RIDGE, inner="loo", scale="zscore sides"), "max"
    ),
}


def _data(missing=True, wide=False):
    """Two layers and five neuroids in two experiments of unequal size; one neuroid in the second only."""
    rng = np.random.default_rng(0)
    width = 100 if wide else P
    layers = {Layer("decoder", k): rng.normal(3, 1, (N, width)).astype(np.float32) for k in (1, 2)}
    Y = layers[Layer("decoder", 1)][:, :P] @ rng.normal(size=(P, V)) + rng.normal(0, 2, (N, V)) + 40
    ids, groups = tuple(f"r{i}" for i in range(N)), tuple(f"g{i // 4:02d}" for i in range(N))
    parts = ("one",) * 32 + ("two",) * 48
    if missing:
        Y[:32, 4] = np.nan
        Y[[2, 40, 77], 1] = np.nan
    neuroids, subjects = tuple(f"v{k}" for k in range(V)), ("a", "a", "b", "b", "b")
    responses = Responses(
        Y.astype(np.float32), ids, groups, groups, neuroids, subjects, ("",) * V, "z", row_parts=parts
    )
    return Features(layers, ids), responses


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_predictions_are_those_behind_the_scores(name, wide):
    features, responses = _data(wide=wide)
    protocol = PROTOCOLS[name]
    fits = list(score_layers(features, responses, protocol).values())
    chosen = np.zeros((8, V), dtype=int)
    chosen[::2, 1:] = 1
    by_fold = held_out.predict(features, responses, protocol, chosen)
    assert [fold.part for fold in by_fold] == list(fits[0].parts)
    for k, fold in enumerate(by_fold):
        for v in range(V):
            expected = fits[chosen[k, v]].r[k, v]
            has = np.isfinite(responses.values[fold.rows, v])
            if np.isnan(expected):
                assert np.isnan(fold.predicted[:, v]).all()
                continue
            columns = fold.predicted[has, v][:, None], responses.values[fold.rows[has], v][:, None]
            assert pearson_r(*columns)[0] == pytest.approx(expected, abs=1e-5)
            assert np.isfinite(fold.predicted[:, v]).tolist() == has.tolist()


def test_predictions_are_in_the_unit_of_the_responses():
    features, responses = _data()
    (fold, *_) = held_out.predict(features, responses, PROTOCOLS["ridge"], np.zeros((8, V), dtype=int))
    train = np.setdiff1d(np.arange(32), fold.rows)
    assert fold.level[0] == pytest.approx(responses.values[train, 0].mean(), rel=1e-6)
    error = fold.predicted[:, 0] + fold.level[0] - responses.values[fold.rows, 0]
    assert abs(error.mean()) < 3


def test_features_that_depend_on_the_fold_are_predicted_too():
    features, responses = _data()
    protocol = replace(PROTOCOLS["ridge"], components=3)
    reduced = RowReduction(features, 3)
    (fit, _) = score_layers(reduced, responses, protocol).values()
    fold = held_out.predict(reduced, responses, protocol, np.zeros((8, V), dtype=int))[3]
    predicted, observed = fold.predicted[:, :1], responses.values[fold.rows, :1]
    assert pearson_r(predicted, observed)[0] == pytest.approx(fit.r[3, 0], abs=1e-5)


@pytest.mark.parametrize("name", ["ridge", "one alpha", "least squares"])
@pytest.mark.parametrize("wide", [False, True])
def test_weights_give_the_predictions_up_to_a_constant(name, wide):
    features, responses = _data(missing=False, wide=wide)
    responses = responses.of(np.arange(32), np.arange(V))  # one experiment
    features = Features({layer: values[:32] for layer, values in features.values.items()}, responses.row_ids)
    protocol = PROTOCOLS[name]
    weights = held_out.mean_weights(features, responses, protocol, 0)
    folds = list(held_out._folds(features, responses, protocol))
    assert weights == pytest.approx(np.mean([fold.weights(0) for fold in folds], axis=0), rel=1e-4, abs=1e-6)
    predicted = held_out.predict(features, responses, protocol, np.zeros((4, V), dtype=int))[1].predicted
    X = features.values[Layer("decoder", 1)][folds[1].rows]
    constant = predicted - X @ folds[1].weights(0)
    assert constant == pytest.approx(np.tile(constant[:1], (len(X), 1)), abs=2e-3)


def test_weights_equal_ridge_of_scikit_learn():
    from sklearn.linear_model import Ridge

    from harness.kernels.gram import design
    from harness.kernels.weights import ridge_weights

    features, responses = _data(missing=False)
    X, Y, train = features.values[Layer("decoder", 1)], responses.values, np.arange(5, 70)
    alpha = np.array([0.1, 1.0, 10.0, 100.0, np.nan])
    weights = ridge_weights(design(X), Y, train, alpha)
    expected = Ridge(alpha[:4]).fit(X[train].astype(float), Y[train][:, :4].astype(float)).coef_.T
    assert weights[:, :4] == pytest.approx(expected, rel=1e-5)
    assert np.isnan(weights[:, 4]).all()


def test_weights_of_features_that_differ_between_folds_are_refused():
    features, responses = _data()
    with pytest.raises(ValueError, match="makes its features anew in each fold"):
        held_out.mean_weights(RowReduction(features, 3), responses, PROTOCOLS["ridge"], 0)
    with pytest.raises(ValueError, match="makes its features anew in each fold"):
        held_out.mean_weights(features, responses, PROTOCOLS["sides"], 0)


def test_a_file_of_predictions_names_every_row_and_neuroid():
    features, responses = _data()
    by_fold = held_out.predict(features, responses, PROTOCOLS["ridge"], np.zeros((8, V), dtype=int))
    arrays = held_out.as_arrays(by_fold, responses)
    assert sorted(arrays["row_id"].tolist()) == sorted(responses.row_ids)
    at = arrays["row_id"].tolist().index("r50")
    observed = responses.values[50] - by_fold[arrays["fold"][at]].level
    assert (arrays["part"][at], arrays["observed"][at].tolist()) == ("two", pytest.approx(observed, abs=1e-4))
    assert arrays["predicted"].shape == (N, V)
    assert arrays["predicted"].dtype == np.float32
