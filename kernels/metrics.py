"""How well predictions match observations, one score per neuroid (column).

A metric is one function here and its line in `METRICS`. All compute in float64, because a prediction under a strong
penalty varies little around a large mean; all give NaN for what cannot be measured.
"""

from __future__ import annotations

from collections.abc import Callable

from kernels.arrays import Array, namespace


def pearson_r(predicted: Array, observed: Array) -> Array:
    """Correlate the two matrices column by column.

    Args:
        predicted: (row, neuroid) held-out predictions.
        observed: (row, neuroid) responses, same rows and columns.

    Returns:
        (neuroid,) float64 in [-1, 1]; NaN where a column is constant, since 0 would read as "no alignment" rather than
        "not measurable".

    Raises:
        ValueError: if the shapes differ.

    Source: Pearson 1895. Unlike Brain-Score language, no epsilon is added to the norms.
    """
    xp = _require_same_shape(predicted, observed)
    p, o = _centre(predicted), _centre(observed)
    products, squares = (p * o).sum(axis=0), (p * p).sum(axis=0) * (o * o).sum(axis=0)
    flat = constant(predicted) | constant(observed)
    return xp.where(flat, xp.nan, products / xp.sqrt(xp.where(flat, 1.0, squares)))


def r2(predicted: Array, observed: Array) -> Array:
    """Share of the variance of each column that the predictions explain: 1 - error / variance about the rows' mean.

    Args:
        predicted: (row, neuroid) held-out predictions, in the unit of the responses.
        observed: (row, neuroid) responses.

    Returns:
        (neuroid,) float64, at most 1 and not bounded below; NaN where the responses are constant.

    Raises:
        ValueError: if the shapes differ.

    Source: the coefficient of determination, as sklearn.metrics.r2_score with `force_finite=False`, NaN for its -inf.
    """
    xp = _require_same_shape(predicted, observed)
    o = _centre(observed)
    error = observed.astype(float) - predicted
    flat = constant(observed)
    return xp.where(flat, xp.nan, 1.0 - (error * error).sum(axis=0) / xp.where(flat, 1.0, (o * o).sum(axis=0)))


METRICS: dict[str, Callable[[Array, Array], Array]] = {"pearson_r": pearson_r, "r2": r2}


def constant(values: Array) -> Array:
    """(column,) bool: whether a column of (row, column) varies by no more than rounding.

    n equal numbers and their mean may differ by n eps, so equality itself is too strict a question.
    """
    xp = namespace(values)
    tolerance = len(values) * xp.finfo(float).eps * abs(values).max(axis=0)
    return values.max(axis=0) - values.min(axis=0) <= tolerance


def _centre(values: Array) -> Array:
    """The columns in float64, less their means."""
    values = values.astype(float)
    return values - values.mean(axis=0)


def _require_same_shape(predicted: Array, observed: Array) -> Array:
    """The arrays' library; ValueError where predictions and observations cannot be paired."""
    if predicted.shape != observed.shape or predicted.ndim != 2:
        raise ValueError(
            f"metrics: predictions are {predicted.shape}, observations {observed.shape}; "
            "wanted the same rows and columns of both."
        )
    return namespace(predicted, observed)
