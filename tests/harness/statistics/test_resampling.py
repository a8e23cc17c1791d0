"""Sign flips and bootstraps against hand calculations and textbook formulas."""

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from harness.statistics.resampling import bootstrap, sign_flip, standard_error


def test_sign_flips_enumerate_every_pattern():
    values = np.array([0.3, 0.1, -0.05, 0.2, 0.15])
    means = [np.mean(values * signs) for signs in product((1, -1), repeat=5)]
    expected = np.mean([abs(mean) >= abs(values.mean()) - 1e-12 for mean in means])
    test = sign_flip(values)
    assert test.exact
    assert test.p == pytest.approx(expected)
    assert test.p_min == 2 / 2**5


def test_values_of_one_sign_give_the_smallest_possible_p():
    assert sign_flip(np.array([1.0, 2.0, 3.0, 4.0])).p == 2 / 16


def test_one_value_has_no_test():
    assert math.isnan(sign_flip(np.array([1.0])).p)


def test_random_flips_of_many_values_agree_with_the_t_test():
    values = np.random.default_rng(0).normal(0.35, 1, 40)
    test = sign_flip(values)
    assert not test.exact
    assert test.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.01)


def test_the_interval_of_many_normal_values_equals_the_t_interval():
    values = np.random.default_rng(1).normal(2, 3, 60)
    interval = bootstrap(values)
    expected = stats.t.interval(0.95, 59, values.mean(), stats.sem(values))
    assert (interval.low, interval.high) == pytest.approx(expected, abs=0.06)
    assert interval.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


def test_few_values_have_no_interval_and_equal_values_a_point():
    assert math.isnan(bootstrap(np.arange(4.0)).low)
    assert math.isnan(bootstrap(np.arange(8.0), np.ones((8, 4))).low)
    assert (bootstrap(np.ones(6)).low, bootstrap(np.ones(6)).high) == (1, 1)


def test_the_standard_error_over_units_and_subjects_equals_the_spread_of_simulated_means():
    rng = np.random.default_rng(2)
    units, subjects, residuals = (
        rng.normal(size=(4000, 8, 1)),
        rng.normal(size=(4000, 1, 6)),
        rng.normal(size=(4000, 8, 6)),
    )
    tables = units + subjects + residuals
    errors = np.array([standard_error(table)[0] for table in tables])
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(tables.mean(axis=(1, 2)).std(), rel=0.05)


def test_differences_between_subjects_widen_the_interval():
    subjects = np.random.default_rng(3).normal(size=(1, 9)) + 0.01 * np.random.default_rng(4).normal(size=(8, 9))
    over_units = bootstrap(subjects.mean(axis=1))
    over_both = bootstrap(subjects.mean(axis=1), subjects)
    assert over_both.high - over_both.low > 10 * (over_units.high - over_units.low)


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(5).normal(size=9)
    assert bootstrap(values, seed=3) == bootstrap(values, seed=3) != bootstrap(values, seed=4)
