"""Sign flips and bootstraps against arithmetic done by hand and textbook formulas."""

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from harness.statistics.resampling import bootstrap, sign_flip, standard_error


def test_sign_flips_count_every_pattern():
    values = np.array([0.3, 0.1, -0.05, 0.2, 0.15])
    means = [np.mean(values * signs) for signs in product((1, -1), repeat=5)]
    expected = np.mean([abs(mean) >= abs(values.mean()) - 1e-12 for mean in means])
    found = sign_flip(values)
    assert found.exact
    assert found.p == pytest.approx(expected)
    assert found.p_least == 2 / 2**5


def test_values_of_one_sign_give_the_least_p():
    assert sign_flip(np.array([1.0, 2.0, 3.0, 4.0])).p == 2 / 16


def test_one_value_has_no_test():
    assert math.isnan(sign_flip(np.array([1.0])).p)


def test_many_values_are_flipped_at_random_and_agree_with_t():
    values = np.random.default_rng(0).normal(0.35, 1, 40)
    found = sign_flip(values)
    assert not found.exact
    assert found.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.01)


def test_the_interval_of_the_mean_of_many_normal_values_is_that_of_t():
    values = np.random.default_rng(1).normal(2, 3, 60)
    found = bootstrap(values)
    expected = stats.t.interval(0.95, 59, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected, abs=0.06)
    assert found.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


def test_a_few_values_have_no_interval_and_equal_ones_a_point():
    assert math.isnan(bootstrap(np.arange(4.0)).low)
    assert math.isnan(bootstrap(np.arange(8.0), np.ones((8, 4))).low)
    assert (bootstrap(np.ones(6)).low, bootstrap(np.ones(6)).high) == (1, 1)


def test_the_standard_error_over_units_and_people_is_that_of_the_analysis_of_variance():
    """Against the variance of means of many tables drawn anew."""
    draw = np.random.default_rng(2)
    of_units, of_people, rest = (
        draw.normal(size=(4000, 8, 1)),
        draw.normal(size=(4000, 1, 6)),
        draw.normal(size=(4000, 8, 6)),
    )
    drawn = of_units + of_people + rest
    errors = np.array([standard_error(table)[0] for table in drawn])
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(drawn.mean(axis=(1, 2)).std(), rel=0.05)


def test_people_widen_the_interval_where_they_differ():
    people = np.random.default_rng(3).normal(size=(1, 9)) + 0.01 * np.random.default_rng(4).normal(size=(8, 9))
    alone, both = bootstrap(people.mean(axis=1)), bootstrap(people.mean(axis=1), people)
    assert both.high - both.low > 10 * (alone.high - alone.low)


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(5).normal(size=9)
    assert bootstrap(values, seed=3) == bootstrap(values, seed=3) != bootstrap(values, seed=4)
