"""Fit the saturation curve of noise ceilings to all neuroids and bootstraps at once.

    v(x) = v0 (1 - exp(-x / tau0)),   0 <= v0 <= 1,   tau0 free,

by least squares, with x the number of subjects. For noisy data the sum of squares has flat valleys, and in a few per
cent of fits a second minimum, so v0 depends on the path of the optimiser. This is SciPy's optimiser, the trust-region
reflective algorithm of `scipy.optimize.curve_fit` from its default start (v0 = 0.5, tau0 = 1), with the same steps,
radii and tolerances (1e-8), vectorised over fits. Only v0 has bounds, and there are two parameters, so every matrix is
2 x 2.

Precision: float64. SciPy stops up to 1e-3 away from the minimum, at a point that depends on rounding: a change in the
last digit of the data moves half of SciPy's v0 by more than 1e-9, by up to 2e-6 in the recorded case, and one in a
hundred by 1e-3 for noise. Ours differ from SciPy's as much as SciPy's differ from themselves. For noise v0 means
little: wherever scores happen to rise, it can be anything up to 1.

Source: Schrimpf et al. 2021 (the curve); Branch, Coleman & Li 1999 (reflections at the bound); More 1977 (the step).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.kernels.arrays import Array
from harness.records import Floats

# As in SciPy: tolerance for the reduction of the cost, the step and the gradient; evaluations for two parameters.
_TOLERANCE = 1e-8
_EVALUATIONS = 200
# SciPy's finite-difference step for tau0; the derivative by v0 is exact, since the curve is linear in v0.
_DIFFERENCE = np.finfo(float).eps ** 0.5
# Fits per block. Blocks should be large, since the slowest few fits of a block run alone at the end.
_BLOCK = 2**15


class _Fits(NamedTuple):
    """State of unfinished fits.

    Attributes:
        which: (fit,) index among all fits of the block.
        y: (point, fit) data.
        at: (2, fit) current v0 and tau0.
        decay: (point, fit) exp(-x / tau0).
        cost: (fit,) half the sum of squares.
        radius: (fit,) trust-region radius.
        damping: (fit,) Levenberg-Marquardt parameter of the last step.
    """

    which: Array
    y: Floats
    at: Floats
    decay: Floats
    cost: Floats
    radius: Floats
    damping: Floats


class _Quadratic(NamedTuple):
    """Quadratic model of the cost around a point, in coordinates (v0 / scale, tau0); scale shrinks towards the bound.

    Attributes:
        scale: (fit,) scale of v0.
        gradient: (2, fit) gradient of the cost.
        A, B, C: (fit,) entries of the positive semidefinite matrix [[A, B], [B, C]].
        rest: (fit,) its determinant divided by A, computed as a sum of squares to avoid cancellation.
        slope: (fit,) largest component of the scaled gradient, 0 at a minimum within the bounds.
    """

    scale: Floats
    gradient: Floats
    A: Floats
    B: Floats
    C: Floats
    rest: Floats
    slope: Floats

    def form(self, s: Floats, t: Floats) -> Floats:
        """(fit,) s' M t."""
        form: Floats = self.A * s[0] * t[0] + self.B * (s[0] * t[1] + s[1] * t[0]) + self.C * s[1] * t[1]
        return form

    def value(self, s: Floats) -> Floats:
        """(fit,) change of the cost for a step s."""
        change: Floats = 0.5 * self.form(s, s) + _dot(self.gradient, s)
        return change

    def least_along(self, start: Floats, way: Floats, low: Floats, high: Floats) -> Floats:
        """(2, fit) minimum along start + t way for t in [low, high]."""
        bend, slope = self.form(way, way), _dot(self.gradient, way) + self.form(start, way)
        point: Floats = start + np.clip(-slope / bend, low, high) * way
        return point


def curve(x: NDArray[Any], parameters: Floats) -> Floats:
    """(..., point) v(x) at (point,) x for (..., 2) v0 and tau0."""
    v0, tau0 = parameters[..., :1], parameters[..., 1:]
    values: Floats = v0 * (1.0 - np.exp(-x / tau0))
    return values


def fit(x: Floats, y: Floats) -> Floats:
    """Fit the curve to every row of data.

    Args:
        x: (point,) numbers of subjects.
        y: (fit, point) finite.

    Returns:
        (fit, 2) v0 and tau0; NaN if 200 evaluations do not suffice, where SciPy raises RuntimeError.
    """
    result = np.full((2, len(y)), np.nan)
    with np.errstate(all="ignore"):  # a step to negative tau0 can overflow and is then rejected
        for start in range(0, len(y), _BLOCK):
            _fit_block(x[:, None], y[start : start + _BLOCK].T, result[:, start : start + _BLOCK])
    return result.T


def _fit_block(x: Floats, y: Floats, result: Floats) -> None:
    """Iterate until all fits have converged; write results into (2, fit) `result`."""
    at = np.repeat([[0.5], [1.0]], y.shape[1], axis=1)
    decay = np.exp(-x / at[1])
    nothing = np.zeros(y.shape[1])
    fits = _Fits(np.arange(y.shape[1]), y, at, decay, _cost(y, at, decay), nothing, nothing)
    model = _quadratic(x, fits)
    fits = fits._replace(radius=_norm(at / [model.scale, np.ones(y.shape[1])]))
    done = model.slope < _TOLERANCE
    for _ in range(_EVALUATIONS - 1):
        result[:, fits.which[done]] = fits.at[:, done]
        fits, model = _Fits(*(field[..., ~done] for field in fits)), _Quadratic(*(field[..., ~done] for field in model))
        if not len(fits.which):
            return
        fits, stopped = _step(x, fits, model)
        model = _quadratic(x, fits)
        done = stopped | (model.slope < _TOLERANCE)
    result[:, fits.which[done]] = fits.at[:, done]


def _step(x: Floats, fits: _Fits, model: _Quadratic) -> tuple[_Fits, NDArray[np.bool_]]:
    """Try one step of each fit, accept it where the cost decreases, and report which fits have converged."""
    step, damping = _within_radius(model, fits.radius, fits.damping, len(x))
    v0 = fits.at[0] + model.scale * step[0]
    outside = np.flatnonzero((v0 < 0) | (v0 > 1))
    if len(outside):
        outside_model = _Quadratic(*(field[..., outside] for field in model))
        step[:, outside] = _inside(outside_model, fits.at[0, outside], step[:, outside], fits.radius[outside])
    move = np.stack([model.scale * step[0], step[1]])
    at = fits.at + move
    at[0] = np.clip(at[0], np.nextafter(0.0, 1.0), np.nextafter(1.0, 0.0))
    decay = np.exp(-x / at[1])
    cost = _cost(fits.y, at, decay)
    finite, reduction, predicted, length = np.isfinite(cost), fits.cost - cost, -model.value(step), _norm(step)
    ratio = np.where(predicted > 0, reduction / predicted, (predicted == 0) & (reduction == 0))
    radius = np.where((ratio > 0.75) & (length > 0.95 * fits.radius), 2.0 * fits.radius, fits.radius)
    radius = np.where((ratio < 0.25) | ~finite, 0.25 * length, radius)
    damping = np.where(finite, damping * fits.radius / radius, damping)
    stopped = (reduction < _TOLERANCE * fits.cost) & (ratio > 0.25)
    stopped |= _norm(move) < _TOLERANCE * (_TOLERANCE + _norm(fits.at))
    accepted = finite & (reduction > 0)
    tried = ((at, fits.at), (decay, fits.decay), (cost, fits.cost))
    at, decay, cost = (np.where(accepted, new, old) for new, old in tried)
    return fits._replace(at=at, decay=decay, cost=cost, radius=radius, damping=damping), stopped & finite


def _cost(y: Floats, at: Floats, decay: Floats) -> Floats:
    """(fit,) half the sum of squares."""
    residuals = at[0] * (1.0 - decay) - y
    cost: Floats = 0.5 * np.einsum("ij,ij->j", residuals, residuals)
    return cost


def _quadratic(x: Floats, fits: _Fits) -> _Quadratic:
    """Gauss-Newton model with the Coleman-Li scaling and its contribution to the matrix."""
    v0, tau0 = fits.at
    by_v0 = 1.0 - fits.decay
    residuals = v0 * by_v0 - fits.y
    shifted_tau0 = tau0 + np.copysign(_DIFFERENCE * np.maximum(1.0, np.abs(tau0)), tau0)
    by_tau0 = (v0 * (1.0 - np.exp(-x / shifted_tau0)) - fits.y - residuals) / (shifted_tau0 - tau0)
    of_v0, of_tau0 = np.einsum("ij,ij->j", by_v0, residuals), np.einsum("ij,ij->j", by_tau0, residuals)
    distance = np.where(of_v0 < 0, 1.0 - v0, np.where(of_v0 > 0, v0, 1.0))
    scale, bound = np.sqrt(distance), np.abs(of_v0)
    by_v0 *= scale
    A = np.einsum("ij,ij->j", by_v0, by_v0) + bound
    B, C = np.einsum("ij,ij->j", by_v0, by_tau0), np.einsum("ij,ij->j", by_tau0, by_tau0)
    ratio = B / A
    by_tau0 -= ratio * by_v0
    rest = np.einsum("ij,ij->j", by_tau0, by_tau0) + ratio**2 * bound
    slope = np.maximum(bound * distance, np.abs(of_tau0))
    return _Quadratic(scale, np.stack([scale * of_v0, of_tau0]), A, B, C, rest, slope)


def _within_radius(model: _Quadratic, radius: Floats, damping: Floats, n_points: int) -> tuple[Floats, Floats]:
    """(2, fit) step to the minimum, or the best step of length `radius`; (fit,) its damping, 0 for the minimum."""
    half = 0.5 * (model.A - model.C)
    large = 0.5 * (model.A + model.C) + np.sqrt(half**2 + model.B**2)
    values = np.stack([large, model.A * model.rest / large])
    angle = 0.5 * np.arctan2(model.B, half)
    cos, sin = np.cos(angle), np.sin(angle)
    g = np.stack([cos * model.gradient[0] + sin * model.gradient[1], cos * model.gradient[1] - sin * model.gradient[0]])
    well_conditioned = np.sqrt(values[1]) > np.finfo(float).eps * n_points * np.sqrt(large)
    constrained = np.flatnonzero(~(well_conditioned & (_norm(g / values) <= radius)))
    damped = np.zeros_like(radius)
    given: tuple[Any, ...] = (values, g, radius, damping, well_conditioned)
    damped[constrained] = _damping(*(array[..., constrained] for array in given))
    p = -g / (values + damped)
    p[:, constrained] *= radius[constrained] / _norm(p[:, constrained])
    return np.stack([cos * p[0] - sin * p[1], sin * p[0] + cos * p[1]]), damped


def _damping(values: Floats, g: Floats, radius: Floats, last: Floats, well_conditioned: NDArray[np.bool_]) -> Floats:
    """(fit,) damping for which the step g / (values + damping) has length `radius` to 1 %."""

    def excess(damping: Floats) -> tuple[Floats, Floats]:
        damped = values + damping
        length = _norm(g / damped)
        return length - radius, -(g**2 / damped**3).sum(axis=0) / length

    upper = _norm(g) / radius
    over, slope = excess(np.zeros_like(radius))
    lower = np.where(well_conditioned, -over / slope, 0.0)
    damping = np.where(~well_conditioned & (last == 0), np.inf, last)
    searching = np.ones(len(radius), dtype=bool)
    for _ in range(10):
        out_of_range = (damping < lower) | (damping > upper)
        tried = np.where(out_of_range, np.maximum(0.001 * upper, np.sqrt(lower * upper)), damping)
        over, slope = excess(tried)
        upper = np.where(searching & (over < 0), tried, upper)
        lower = np.where(searching, np.maximum(lower, tried - over / slope), lower)
        damping = np.where(searching, tried - (over + radius) * over / slope / radius, damping)
        searching &= np.abs(over) >= 0.01 * radius
        if not searching.any():
            break
    return damping


def _inside(model: _Quadratic, v0: Floats, step: Floats, radius: Floats) -> Floats:
    """(2, fit) replacement of a step that leaves [0, 1]: the best of shortened, reflected and steepest descent."""
    theta = np.maximum(0.995, 1.0 - model.slope)
    stride = _to_bound(v0, model.scale * step[0])
    way, step = step * [[-1.0], [1.0]], step * stride
    across, to_radius = _dot(step, way), _dot(way, way)
    to_radius = (np.sqrt(across**2 - to_radius * (_dot(step, step) - radius**2)) - across) / to_radius
    to_bound = _to_bound(v0 + model.scale * step[0], model.scale * way[0])
    longest = np.minimum(to_bound, to_radius)
    low = (1.0 - theta) * stride / longest
    high = np.where(to_bound <= to_radius, theta * to_bound, to_radius)
    reflected = model.least_along(step, way, low, high)
    down = -model.gradient
    to_radius, to_bound = radius / _norm(down), _to_bound(v0, model.scale * down[0])
    longest_down = np.where(to_bound < to_radius, theta * to_bound, to_radius)
    steepest = model.least_along(np.zeros_like(down), down, np.zeros_like(v0), longest_down)
    candidates = np.stack([theta * step, reflected, steepest])
    changes = np.stack([model.value(candidate) for candidate in candidates])
    changes[1] = np.where((longest > 0) & (low <= high), changes[1], np.inf)
    best = changes.argmin(axis=0)
    chosen: Floats = np.take_along_axis(candidates, best[None, None], axis=0)[0]
    return chosen


def _to_bound(v0: Floats, move: Floats) -> Floats:
    """(fit,) number of moves from v0 to the bound 0 or 1."""
    return np.maximum(-v0 / move, (1.0 - v0) / move)


def _dot(s: Floats, t: Floats) -> Floats:
    dot: Floats = s[0] * t[0] + s[1] * t[1]
    return dot


def _norm(s: Floats) -> Floats:
    return np.sqrt(_dot(s, s))
