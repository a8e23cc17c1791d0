"""Regression on model size."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from harness.statistics import scaling, scores


def make_scores(r, sizes, bases=None, families=None):
    """Scores on one data set; each argument maps a model to its value."""
    names = list(r)
    models = pd.DataFrame({"family": [(families or {}).get(name, "x") for name in names], "pair_source": "",
                           "base": [(bases or {}).get(name, "") for name in names],
                           "is_main": True, "n_parameters": [float(sizes[name]) for name in names]},
                          index=pd.Index(names, name="model"))  # fmt: skip
    rows = pd.DataFrame({"model": names, "dataset": "synthetic", "protocol": "strict", "target": "all",
                         "metric": "pearson_r", "score": list(r.values())})  # fmt: skip
    models.insert(1, "base", models.pop("base"))
    return scores.of_frames("a test", rows, models)


SIZES = {"a": 1e6, "b": 1e7, "c": 1e8, "d": 1e9, "e": 1e10}
SCORES = {"a": 0.11, "b": 0.19, "c": 0.18, "d": 0.31, "e": 0.33}


def test_the_slope_equals_scipy_and_has_a_t_interval():
    (row,) = scaling.scaling(make_scores(SCORES, SIZES)).to_dict("records")
    expected = stats.linregress(range(6, 11), list(SCORES.values()))
    half = stats.t.ppf(0.975, 3) * expected.stderr
    assert (row["slope"], row["p"], row["r2"]) == pytest.approx((expected.slope, expected.pvalue, expected.rvalue**2))
    assert (row["low"], row["high"]) == pytest.approx((expected.slope - half, expected.slope + half))
    assert math.isnan(row["slope_in_family"])


def test_models_that_share_a_base_are_one_point():
    r = SCORES | {"e-tuned": 0.53}
    (row,) = scaling.scaling(make_scores(r, SIZES | {"e-tuned": 1e10}, {"e-tuned": "e"})).to_dict("records")
    assert (row["n_models"], row["n_bases"]) == (6, 5)
    assert row["slope"] == pytest.approx(stats.linregress(range(6, 11), [0.11, 0.19, 0.18, 0.31, 0.43]).slope)


def test_the_slope_within_families_ignores_differences_between_them():
    sizes = {f"{family}{k}": 10.0 ** (6 + k + 3 * (family == "y")) for family in "xy" for k in range(4)}
    r = {name: 0.1 * (name[0] == "y") - 0.02 * int(name[1]) for name in sizes}
    (row,) = scaling.scaling(make_scores(r, sizes, families={name: name[0] for name in r})).to_dict("records")
    assert row["slope"] > 0 > row["slope_in_family"] == pytest.approx(-0.02)


def test_three_bases_or_equal_sizes_give_no_line():
    assert scaling.scaling(make_scores({name: SCORES[name] for name in "abc"}, SIZES)).empty
    assert scaling.scaling(make_scores(SCORES, dict.fromkeys(SIZES, 1e6))).empty


def test_the_plotted_line_equals_scipy_and_is_most_certain_at_the_mean():
    x, y = np.arange(6.0), np.array([0.0, 1.2, 1.9, 3.1, 3.8, 5.2])
    grid, line, low, high = scaling.curve(x, y)
    expected = stats.linregress(x, y)
    assert line == pytest.approx(expected.intercept + expected.slope * grid)
    middle = len(grid) // 2  # the mean of x
    assert (high - low)[middle] == min(high - low)
