"""Mixed precision chooses the same alphas as float64 and stays within its memory budget."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from harness.kernels.gram import design
from harness.kernels.metrics import pearson_r
from harness.kernels.ridge import Penalty, Split, fit_folds
from tests.kernels.planted import BLOCKS, SHAPES, SINGLE, fit, planted

GRIDS = {"usual": np.logspace(-3, 5, 9), "useless top": np.logspace(0, 25, 26), "far out": np.logspace(-12, 18, 21)}


@pytest.mark.parametrize("split", [SINGLE, BLOCKS], ids=["rows", "blocks"])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_mixed_precision_chooses_the_alphas_of_double_precision(shape, grid, split):
    X, Y = planted(*SHAPES[shape], 300)
    rng = np.random.default_rng(0)
    noise, exact = rng.standard_normal((60, 300)), X @ rng.standard_normal((X.shape[1], 300))
    Y = np.hstack([Y, noise, exact, exact + 1e-3 * noise, 1e-13 * Y, 1e13 * Y])
    penalty = Penalty(tuple(GRIDS[grid]))
    double, mixed = (fit(X, Y, split, penalty, precision=precision) for precision in ("float64", "mixed"))
    # Below a residual variance of 1e-5 errors are rounding in float32; r is not affected.
    fitted = 1 - double.inner < 1e-5
    assert not fitted[:600].any()
    assert (fitted | (double.alpha == mixed.alpha)).all()
    np.testing.assert_allclose(mixed.r, double.r, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["ridge_group_n120_p900_v50", "ridge_group_n243_p64_v300", "ridge_tuckute_like_v1"])
def test_with_the_recorded_alpha_mixed_precision_scores_as_recorded(name, shared):
    case = dict(np.load(shared / "oracle" / f"{name}.npz", allow_pickle=False))
    for k in range(int(case["n_splits"])):
        split, penalty = Split(case[f"train_{k}"], case[f"test_{k}"]), Penalty((float(case["alpha"][k]),))
        mixed = fit(case["X"], case["Y"], split, penalty, precision="mixed")
        assert np.isfinite(mixed.r).all()
        np.testing.assert_allclose(mixed.r, case["r"][k], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float64", "mixed"])
@pytest.mark.parametrize("inner", [None, np.arange(200) // 40], ids=["rows", "blocks"])
def test_the_neuroid_side_stays_within_its_memory_budget(inner, precision):
    """Not counting prepared folds, results and the mask of present responses, measured with tiny blocks."""
    rng = np.random.default_rng(0)
    features, Y = design(rng.standard_normal((250, 300))), rng.standard_normal((250, 1500)).astype(np.float32)
    splits = [Split(np.delete(np.arange(250), test), test, inner) for test in np.arange(100).reshape(2, 50)]
    penalty = Penalty(tuple(np.logspace(-3, 8, 12)))

    def peak(budget):
        calls = []

        def metric(predicted, observed):
            if not calls:
                tracemalloc.reset_peak()  # preparation, which may take more for a moment, is over
            calls.append(1)
            return pearson_r(predicted, observed)

        tracemalloc.start()
        fit_folds(features, Y, splits, penalty, precision=precision, budget_bytes=budget, metric=metric)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(2**16)  # what is loaded on first use
    least = peak(2**16)
    used = [(peak(budget) - least) / budget for budget in (2**20, 2**22)]
    assert max(used) < 1, used
    assert min(used) > 0.1, used  # the budget is what limits it
