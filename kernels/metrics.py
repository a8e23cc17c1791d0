"""Metrics: how well predictions match observations, one score per neuroid (column).

A metric is one function here and its entry in `METRICS`. All compute in float64, because predictions under a strong
penalty vary little around a large mean. What cannot be measured is NaN. Columns are independent: one with NaN or
infinity scores NaN and does not affect others, since predictions of a neuroid without a fit are NaN. Metrics that
compare whole matrices are in kernels/similarity.py.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Literal, NamedTuple

from harness.kernels.arrays import Array, namespace, products


def pearson_r(predicted: Array, observed: Array) -> Array:
    """Correlate the two matrices column by column.

    Args:
        predicted: (row, neuroid) held-out predictions, in any memory order.
        observed: (row, neuroid) responses, same rows and columns.

    Returns:
        (neuroid,) float64 in [-1, 1] up to rounding; NaN where a column is constant, since 0 would mean "no alignment"
        rather than "not measurable".

    Raises:
        ValueError: if the shapes differ or there are no rows.

    Source: Pearson 1895. Unlike Brain-Score language, no epsilon is added to the norms.
    """
    xp = _require_same_shape(predicted, observed)
    p, o = _centre(predicted), _centre(observed)
    flat = _flat(predicted, p) | _flat(observed, o)
    norms = xp.sqrt(xp.where(flat, 1.0, p.squares)) * xp.sqrt(xp.where(flat, 1.0, o.squares))
    return xp.where(flat, xp.nan, products(p.values, o.values, axis=0) / norms)


def brainscore_r(predicted: Array, observed: Array) -> Array:
    """Correlate column by column as Brain-Score language does, with 1e-8 added to both norms.

    Args:
        predicted: (row, neuroid) held-out predictions.
        observed: (row, neuroid) responses.

    Returns:
        (neuroid,) float64; 0 where a column is constant, and included in Brain-Score's medians. Smaller than
        `pearson_r` where a norm is small, so it depends on the unit of the responses.

    Raises:
        ValueError: if the shapes differ or there are no rows.

    Source: brain-score/language at 0e0bb4a2, August 2026, metric `linear_pearsonr` and its variants.
    """
    xp = _require_same_shape(predicted, observed)
    p, o = _centre(predicted), _centre(observed)
    norms = (xp.sqrt(p.squares) + 1e-8) * (xp.sqrt(o.squares) + 1e-8)
    return products(p.values, o.values, axis=0) / norms


def r2(predicted: Array, observed: Array) -> Array:
    """Fraction of each column's variance that the predictions explain: 1 - squared error / variance.

    Args:
        predicted: (row, neuroid) held-out predictions, in the unit of the responses.
        observed: (row, neuroid) responses.

    Returns:
        (neuroid,) float64, at most 1 and not bounded below; NaN where the responses are constant.

    Raises:
        ValueError: if the shapes differ or there are no rows.

    Source: the coefficient of determination, as sklearn.metrics.r2_score with `force_finite=False`, NaN for its -inf.
    """
    _require_same_shape(predicted, observed)
    error = predicted.astype(float)
    error -= observed
    return _explained(observed, products(error, error, axis=0))


def r2_over_training_mean(predicted: Array, observed: Array) -> Array:
    """Fraction of each column's squared distance from the training mean that the predictions explain.

    Unlike `r2`, predicting the training mean scores 0 and not less, also where the test rows have another mean (another
    topic, another story).

    Args:
        predicted: (row, neuroid) held-out predictions minus the mean of the training rows.
        observed: (row, neuroid) responses minus the mean of the training rows.

    Returns:
        (neuroid,) float64, 1 - sum (observed - predicted)^2 / sum observed^2: at most 1, not bounded below; NaN where
        all responses equal the training mean.

    Raises:
        ValueError: if the shapes differ or there are no rows.

    Source: Campbell & Thompson 2008, R2 out of sample.
    """
    xp = _require_same_shape(predicted, observed)
    error, observed = predicted.astype(float), observed.astype(float)
    error -= observed
    total = products(observed, observed, axis=0)
    return 1.0 - products(error, error, axis=0) / xp.where(total > 0, total, xp.nan)


def explained_variance(predicted: Array, observed: Array) -> Array:
    """Fraction of each column's variance that the predictions explain, ignoring a constant offset.

    Args:
        predicted: (row, neuroid) held-out predictions, in the unit of the responses.
        observed: (row, neuroid) responses.

    Returns:
        (neuroid,) float64, 1 - Var(residual) / Var(observed): at most 1, at least `r2`; NaN where the responses are
        constant.

    Raises:
        ValueError: if the shapes differ or there are no rows.

    Source: sklearn.metrics.explained_variance_score with `force_finite=False`, NaN for its -inf.
    """
    _require_same_shape(predicted, observed)
    residual = predicted.astype(float)
    residual -= observed
    return _explained(observed, _centre(residual).squares)


# (row, neuroid) predictions and observations -> (neuroid,) scores.
METRICS: dict[str, Callable[[Array, Array], Array]] = {
    metric.__name__: metric for metric in (pearson_r, r2, brainscore_r, explained_variance)
}


def against_ceiling(score: Array, ceiling: Array, unit: Literal["variance", "correlation"] = "variance") -> Array:
    """Explained variance as a fraction of the explainable variance.

    Args:
        score: (neuroid,) fractions of variance (`r2`, `explained_variance`), or correlations.
        ceiling: (neuroid,) best possible score in the same unit: `explainable_variance` for variance; for correlation,
            the correlation of the true signal with the recording.
        unit: of both. Correlations are squared; the score keeps its sign, since an inverted prediction explains
            nothing.

    Returns:
        (neuroid,) float64 score / ceiling, or r |r| / ceiling^2. Nothing is clipped: the ratio exceeds 1 where the
        ceiling is underestimated. NaN where the ceiling is not positive or either value is NaN.

    Raises:
        ValueError: if the shapes differ or the unit is unknown.

    Source: Schoppe et al. 2016, normalised correlation coefficient, squared. The squared ratio is Brain-Score
        vision's too; Brain-Score language divides r by its ceiling, does not square, and cuts at 1.
    """
    if score.shape != ceiling.shape:
        raise ValueError(f"against_ceiling: scores are {score.shape}, ceilings {ceiling.shape}; wanted equal shapes.")
    if unit not in ("variance", "correlation"):
        raise ValueError(f"against_ceiling: unit {unit!r}; wanted 'variance' or 'correlation'.")
    xp = namespace(score, ceiling)
    score, ceiling = score.astype(float), ceiling.astype(float)
    ratio = score / xp.where(ceiling > 0, ceiling, xp.nan)
    return ratio * abs(ratio) if unit == "correlation" else ratio


def explainable_variance(data: Array, bias_correction: bool = True) -> Array:
    """Fraction of a neuroid's variance that repeats when the stimuli are presented again.

    Args:
        data: (repeat, row, neuroid) responses to the same rows; each repeat is first z-scored over its rows.
        bias_correction: subtract the noise variance that remains in the mean over a few repeats.

    Returns:
        (neuroid,) float64, the variance of the mean over repeats divided by the mean variance of a repeat. With
        correction it is the mean correlation of two repeats and can be negative. NaN where a repeat is constant or not
        finite.

    Raises:
        ValueError: if data do not have three axes, or fewer than 2 repeats or rows.

    Source: Sahani & Linden 2003; Schoppe et al. 2016; equal to voxelwise_tutorials' `explainable_variance`.
    """
    xp = namespace(data)
    if data.ndim != 3 or min(data.shape[:2]) < 2:
        raise ValueError(
            f"explainable_variance: data are {data.shape}; wanted (repeat, row, neuroid), at least 2 by 2."
        )
    total = xp.zeros(data.shape[1:])
    for repeat in data:
        centred = _centre(repeat)
        total += centred.values / xp.sqrt(xp.where(_flat(repeat, centred), xp.nan, centred.squares))
    n = len(data)
    repeatable = products(total, total, axis=0) / n**2
    return repeatable - (1.0 - repeatable) / (n - 1) if bias_correction else repeatable


def constant(values: Array) -> Array:
    """(column,) bool: whether a column of (row, column) is constant up to rounding.

    Exact equality is too strict: n equal numbers and their computed mean can differ by n eps.
    """
    xp = namespace(values)
    tolerance = len(values) * xp.finfo(float).eps * abs(values).max(axis=0)
    return values.max(axis=0) - values.min(axis=0) <= tolerance


class _Centred(NamedTuple):
    """Columns minus their means, in float64.

    Attributes:
        values: (row, column), in the memory order of the input.
        mean, squares: (column,) the mean, and the sum of squares about it.
    """

    values: Array
    mean: Array
    squares: Array


def _centre(values: Array) -> _Centred:
    """One copy in float64, centred in place."""
    values = values.astype(float)
    mean = values.mean(axis=0)
    values -= mean
    return _Centred(values, mean, products(values, values, axis=0))


def _flat(values: Array, centred: _Centred) -> Array:
    """(column,) bool: `constant`, evaluated only for columns with a suspiciously small sum of squares.

    Numbers within t = n eps |mean| of each other are within 2 t of their computed mean.
    """
    xp, n = namespace(values), len(values)
    flat = centred.squares <= n * (4.0 * n * xp.finfo(float).eps * centred.mean) ** 2
    doubtful = xp.flatnonzero(flat)
    if len(doubtful):
        flat[doubtful] = constant(values[:, doubtful])
    return flat


def _explained(observed: Array, errors: Array) -> Array:
    """1 - (neuroid,) squared errors / sum of squares of the observations about their mean; NaN if constant."""
    xp, centred = namespace(observed), _centre(observed)
    flat = _flat(observed, centred)
    return xp.where(flat, xp.nan, 1.0 - errors / xp.where(flat, 1.0, centred.squares))


def _require_same_shape(predicted: Array, observed: Array) -> ModuleType:
    """The arrays' library; ValueError if predictions and observations do not have the same shape."""
    if predicted.shape != observed.shape or predicted.ndim != 2 or not len(predicted):
        raise ValueError(
            f"metrics: predictions are {predicted.shape}, observations {observed.shape}; "
            "wanted two matrices of the same shape with at least one row."
        )
    return namespace(predicted, observed)
