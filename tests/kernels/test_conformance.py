"""The kernels reproduce the results of Brain-Score language's own metric code on the conformance vectors.

Its r adds 1e-8 to both norms; ours does not, so both forms are computed from our predictions here. Least squares: the
vectors come from scikit-learn 1.7, cut-off max(shape) eps of the singular values; ours is 1e-12 of the squared singular
values. No case has a direction between the two: the ranks are equal.
"""

from __future__ import annotations

import numpy as np
import pytest

from harness.kernels.gram import design
from harness.kernels.metrics import brainscore_r, pearson_r
from harness.kernels.ridge import Penalty, Split, predict_held_out

RIDGE = [
    "ridge_blank_like", "ridge_degenerate_targets", "ridge_group_n120_p900_v50", "ridge_group_n243_p64_v300",
    "ridge_group_n384_p768_v400", "ridge_tuckute_like_v1",
]  # fmt: skip
LINEAR = [
    "lin_degenerate_targets", "lin_group_n243_p64_v120", "lin_kfold5_n150", "lin_shuffle_n243_p64_v300",
    "lin_shuffle_n243_p768_v300", "lin_stratkfold5_n150", "lin_stratshuffle_n150",
]  # fmt: skip


@pytest.fixture
def vectors(shared):
    """Load a case by name, without pickles."""
    return lambda name: dict(np.load(shared / "oracle" / f"{name}.npz", allow_pickle=False))


def held_out(case, k, penalty):
    """Our predictions for all neuroids of split k, the training means, and the recorded case."""
    split = Split(case[f"train_{k}"], case[f"test_{k}"])
    (part,) = predict_held_out(design(case["X"]), case["Y"], split, penalty)
    return part, case["Y"][split.train].mean(axis=0)


def compare(case, k, penalty, tolerance=1e-9):
    """Compare predictions and both forms of r; returns our predictions."""
    part, mean = held_out(case, k, penalty)
    recorded = case["r"][k]
    measurable = np.isfinite(part.alpha) & (np.ptp(case["Y"][case[f"test_{k}"]], axis=0) > 0)
    assert measurable.any()
    predicted = part.predicted[:, measurable] + mean[measurable]
    if f"pred_{k}" in case:  # recorded for the first split only
        np.testing.assert_allclose(predicted, case[f"pred_{k}"][:, measurable], rtol=0, atol=10 * tolerance)
    observed = part.observed[:, measurable]
    np.testing.assert_allclose(brainscore_r(predicted, observed), recorded[measurable], rtol=0, atol=tolerance)
    norms = [np.linalg.norm(values - values.mean(axis=0), axis=0).min() for values in (predicted, observed)]
    np.testing.assert_allclose(
        pearson_r(predicted, observed), recorded[measurable], rtol=0, atol=tolerance + 2e-8 / min(norms)
    )
    assert np.isnan(pearson_r(part.predicted, part.observed)[~measurable]).all()
    assert (np.abs(recorded[~measurable]) < 1e-6).all()  # there 0, and counted; here NaN
    return part


@pytest.mark.parametrize("name", RIDGE)
def test_ridge_with_one_alpha_for_all_equals_brain_score(name, vectors):
    case = vectors(name)
    penalty = Penalty(tuple(case["alphas"]), per_neuroid=False, tie="smaller")
    for k in range(int(case["n_splits"])):
        part = compare(case, k, penalty)
        alphas = part.alpha[np.isfinite(part.alpha)]
        assert (alphas == case["alpha"][k]).all()
        y = case["Y"][case[f"train_{k}"]]
        error = (1 - part.inner) * ((y - y.mean(axis=0)) ** 2).mean(axis=0)
        recorded = case["loo_mse"][k][case["alphas"] == case["alpha"][k]]
        np.testing.assert_allclose(np.nansum(error) / y.shape[1], recorded[0], rtol=1e-9)  # constant neuroids err by 0


@pytest.mark.parametrize("name", LINEAR)
def test_least_squares_equals_brain_score(name, vectors):
    case = vectors(name)
    for k in range(int(case["n_splits"])):
        assert compare(case, k, Penalty(cutoff=1e-12)).rank == case["rank"][k]


def test_float32_features_are_solved_in_float64_where_brain_score_solved_in_float32(vectors):
    case = vectors("lin_shuffle_n243_p768_v300_f32")
    for k in range(int(case["n_splits"])):
        part = compare(case, k, Penalty(cutoff=1e-12), tolerance=1e-4)  # 7 digits, times the condition
        assert part.rank == case["rank"][k]
