"""Invalid input raises an error that names the problem."""

from __future__ import annotations

import numpy as np
import pytest

from harness.kernels.gram import design
from harness.kernels.ridge import Penalty, Split, fit_fold, fit_folds, predict_held_out
from tests.kernels.planted import ALPHAS, LABELS, SINGLE, TEST, TRAIN, fit, planted
from tests.kernels.stand_in import asarray

NONE = np.array([], dtype=int)


def refused(match, Y=None, split=SINGLE, error=ValueError, **how):
    """Assert that fit_fold and predict_held_out (before the first block) raise a matching error."""
    X, good = planted(60, 5)
    Y = good if Y is None else Y
    with pytest.raises(error, match=match):
        fit(X, Y, split, **how)
    with pytest.raises(error, match=match):
        predict_held_out(design(X), Y, split, Penalty(ALPHAS), **how)


def responses(row, neuroid, value):
    Y = planted(60, 5)[1]
    Y[row, neuroid] = value
    return Y


@pytest.mark.parametrize("shape", [(59, 25), (61, 25), (60,), (60, 5, 5), (60, 0)])
def test_responses_of_another_shape_are_named(shape):
    refused(r"responses are \(" + ", ".join(map(str, shape)), np.ones(shape))


@pytest.mark.parametrize(
    ("train", "test", "counts"), [(NONE, TEST, "0 training and 12"), (TRAIN, NONE, "48 training and 0")]
)
def test_a_fold_without_rows_on_a_side_is_an_error(train, test, counts):
    refused(f"fold 0 has {counts} test rows; both sides must have rows", split=Split(train, test))


def test_an_invalid_fold_is_named_by_its_number():
    X, Y = planted(60, 5)
    with pytest.raises(ValueError, match="fold 1 has 0 training"):
        fit_folds(design(X), Y, [SINGLE, Split(NONE, TEST)], Penalty(ALPHAS))


def test_no_folds_give_no_fits():
    X, Y = planted(60, 5)
    assert fit_folds(design(X), Y, [], Penalty(ALPHAS)) == []


@pytest.mark.parametrize("row", [60, -1])
@pytest.mark.parametrize("side", [0, 1])
def test_a_row_index_out_of_range_is_named(row, side):
    sides = [TRAIN.copy(), TEST.copy()]
    sides[side][3] = row
    refused(f"fold 0 has row index {row}; wanted 0 to 59", split=Split(*sides))


@pytest.mark.parametrize("rows", [np.arange(60) >= 12, np.arange(48.0)], ids=["a mask", "fractions"])
def test_row_indices_that_are_not_integers_are_named(rows):
    refused(f"fold 0 .* {rows.dtype}", split=Split(rows, TEST))


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_a_neuroid_with_infinite_responses_is_named(value):
    refused("neuroid 7 of 25 .* infinite", responses(20, 7, value))


def test_a_neuroid_without_any_response_is_named():
    refused("neuroid 7 of 25 .* no response", responses(slice(None), 7, np.nan))


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_feature_that_is_not_finite_is_named(value, library):
    X, _ = planted(60, 5)
    X[2, 3] = value
    with pytest.raises(ValueError, match="column 3 of 5"):
        design(library.put(X))


def test_there_must_be_one_inner_label_per_training_row():
    refused("fold 0: 47 inner labels for 48 training rows", split=Split(TRAIN, TEST, LABELS[:-1]))


def test_there_must_be_at_least_two_inner_blocks():
    refused("fold 0: inner has a single block", split=Split(TRAIN, TEST, np.zeros(48, dtype=int)))


def test_host_and_device_arrays_are_not_mixed():
    X, Y = planted(60, 5)
    for features, responses in ((X, asarray(Y)), (asarray(X), Y)):
        with pytest.raises(TypeError, match="numpy and stand_in"):
            fit_fold(design(features), responses, SINGLE, Penalty(ALPHAS))


def test_lists_are_not_arrays():
    X, Y = planted(60, 5)
    with pytest.raises(TypeError, match="list is not an array"):
        fit_fold(design(X), Y.tolist(), SINGLE, Penalty(ALPHAS))


def test_an_unknown_precision_is_named():
    refused("float16.*float64.*mixed", precision="float16")


def test_an_unknown_way_is_named():
    refused("prmal.*counted.*dual.*primal", way="prmal")


@pytest.mark.parametrize("alphas", [(0.0, 1.0), (-1.0,), (np.inf,), (np.nan,)])
def test_invalid_alphas_are_refused(alphas):
    with pytest.raises(ValueError, match="positive"):
        Penalty(alphas)


@pytest.mark.parametrize(("field", "value"), [("tie", "largest"), ("mean_over", "block")])
def test_an_unknown_rule_is_named(field, value):
    with pytest.raises(ValueError, match=f"{field}.*{value}"):
        Penalty(ALPHAS, **{field: value})


def test_response_factors_must_match_the_rows_that_are_present():
    X, Y = planted(60, 5)
    with pytest.raises(ValueError, match=r"neuroid 0.*response_factors"):
        fit_fold(design(X), Y, SINGLE, Penalty(ALPHAS, per_neuroid=False), factors={})
